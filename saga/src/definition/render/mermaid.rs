//! Text that mermaid draws.

use std::fmt::Write;

use crate::{
    definition::{Class, Plan, PlanStep, render::Look},
    instance::Instance,
};

pub(super) fn draw(plan: &Plan, instance: Option<&Instance>) -> String {
    let mut drawn = String::from("flowchart LR\n");
    let ids = |stage: &[PlanStep]| -> Vec<String> {
        let place = |step: &PlanStep| plan.steps().iter().position(|s| s.name == step.name);
        let places = stage.iter().filter_map(place);
        places.map(|place| format!("s{place}")).collect()
    };
    for (place, step) in plan.steps().iter().enumerate() {
        let condition = if step.is_conditional() {
            " (if wanted)"
        } else {
            ""
        };
        let label = format!("{}{condition}", escaped(step.name()));
        let look = Look::of(instance, step.name()).word();
        let (open, close) = match step.class() {
            Class::Compensatable(_) => ("[", "]"),
            Class::Pivot => ("{{", "}}"),
            Class::Retriable { .. } => ("([", "])"),
        };
        line(
            &mut drawn,
            format_args!("  s{place}{open}\"{label}\"{close}:::{look}"),
        );
    }
    let stages: Vec<_> = plan.stages().map(ids).collect();
    for pair in stages.windows(2) {
        for from in &pair[0] {
            for to in &pair[1] {
                line(&mut drawn, format_args!("  {from} --> {to}"));
            }
        }
    }
    for look in Look::ALL {
        let (fill, stroke) = look.colours();
        let word = look.word();
        line(
            &mut drawn,
            format_args!("  classDef {word} fill:{fill},stroke:{stroke},color:#18181b"),
        );
    }
    drawn
}

fn line(drawn: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(drawn, "{text}");
}

/// Mermaid's own entities.
fn escaped(text: &str) -> String {
    let entity = |c: char| match c {
        '&' => "#amp;".to_owned(),
        '"' => "#quot;".to_owned(),
        '<' => "#lt;".to_owned(),
        '>' => "#gt;".to_owned(),
        '#' => "#35;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(entity).collect()
}
