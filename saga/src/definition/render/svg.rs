//! A picture: stages from left to right, steps of one stage one below the other.

use std::fmt::Write;

use crate::{
    definition::{Class, Plan, PlanStep, render::Look},
    instance::Instance,
};

/// Of a step's box, in units of the picture.
const WIDTH: usize = 190;
const HEIGHT: usize = 52;
/// Between two stages, and between two steps of one.
const GAP: (usize, usize) = (46, 18);
const MARGIN: usize = 14;

pub(super) fn draw(plan: &Plan, instance: Option<&Instance>) -> String {
    let stages: Vec<&[PlanStep]> = plan.stages().collect();
    let tallest = stages.iter().map(|stage| stage.len()).max().unwrap_or(1);
    let width = 2 * MARGIN + stages.len() * WIDTH + stages.len().saturating_sub(1) * GAP.0;
    let height = 2 * MARGIN + tallest * HEIGHT + (tallest - 1) * GAP.1;
    let mut drawn = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        drawn,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\" font-family=\"system-ui, sans-serif\">",
        escaped(&format!("{}, version {}", plan.name(), plan.version()))
    );
    for (column, pair) in stages.windows(2).enumerate() {
        for (row_from, _) in pair[0].iter().enumerate() {
            for (row_to, _) in pair[1].iter().enumerate() {
                let (x1, y1) = place(column, row_from, pair[0].len(), tallest);
                let (x2, y2) = place(column + 1, row_to, pair[1].len(), tallest);
                let _ = write!(
                    drawn,
                    "<path d=\"M{} {} L{} {}\" stroke=\"#71717a\" stroke-width=\"1.5\" fill=\"none\"/>",
                    x1 + WIDTH,
                    y1 + HEIGHT / 2,
                    x2,
                    y2 + HEIGHT / 2
                );
            }
        }
    }
    for (column, stage) in stages.iter().enumerate() {
        for (row, step) in stage.iter().enumerate() {
            let at = place(column, row, stage.len(), tallest);
            draw_step(&mut drawn, step, at, Look::of(instance, step.name()));
        }
    }
    drawn.push_str("</svg>\n");
    drawn
}

/// The upper left corner of a box: a stage with few steps stands in the middle.
fn place(column: usize, row: usize, rows: usize, tallest: usize) -> (usize, usize) {
    let spare = (tallest - rows) * (HEIGHT + GAP.1) / 2;
    let x = MARGIN + column * (WIDTH + GAP.0);
    (x, MARGIN + spare + row * (HEIGHT + GAP.1))
}

fn draw_step(drawn: &mut String, step: &PlanStep, (x, y): (usize, usize), look: Look) {
    let (fill, stroke) = look.colours();
    let radius = match step.class() {
        Class::Compensatable(_) => 6,
        Class::Pivot => 0,
        Class::Retriable { .. } => HEIGHT / 2,
    };
    let weight = if matches!(step.class(), Class::Pivot) {
        3
    } else {
        1
    };
    let dashes = if step.is_conditional() {
        " stroke-dasharray=\"5 3\""
    } else {
        ""
    };
    let middle = x + WIDTH / 2;
    let _ = write!(
        drawn,
        "<g class=\"step {}\"><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" rx=\"{radius}\" fill=\"{fill}\" stroke=\"{stroke}\" \
         stroke-width=\"{weight}\"{dashes}/><text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" \
         font-size=\"14\" fill=\"#18181b\">{}</text><text x=\"{middle}\" y=\"{}\" \
         text-anchor=\"middle\" font-size=\"11\" fill=\"#52525b\">{}</text></g>",
        look.word(),
        escaped(step.name()),
        y + 22,
        escaped(&shortened(step.name())),
        y + 40,
        step.class().as_str(),
    );
}

/// So much as fits into a box; the whole name is its title.
fn shortened(name: &str) -> String {
    const FITS: usize = 24;
    if name.chars().count() <= FITS {
        return name.to_owned();
    }
    name.chars().take(FITS - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    let entity = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '"' => "&quot;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(entity).collect()
}
