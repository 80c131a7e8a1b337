//! A definition drawn: as mermaid for documents, as SVG for a page. With an instance, the way it
//! has taken is drawn too. Pure text: the same arguments give the same picture.

mod mermaid;
mod svg;

use crate::{
    definition::Plan,
    instance::{Instance, StepStatus},
};

impl Plan {
    /// The definition as a mermaid flowchart; with an instance, each step in the colour of where it
    /// stands.
    #[must_use]
    pub fn to_mermaid(&self, instance: Option<&Instance>) -> String {
        mermaid::draw(self, instance)
    }

    /// The definition as an SVG picture that needs nothing else; with an instance, each step in the
    /// colour of where it stands. Names are escaped; nothing in them is executed.
    #[must_use]
    pub fn to_svg(&self, instance: Option<&Instance>) -> String {
        svg::draw(self, instance)
    }
}

/// How a step looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Not begun, or no instance is asked about.
    Plain,
    /// Under way.
    Active,
    /// It took effect.
    Done,
    /// It took effect and was undone, or had none.
    Undone,
    /// Nobody knows, or it was refused.
    Trouble,
    /// Left out.
    Skipped,
}

impl Look {
    const ALL: [Self; 6] = [
        Self::Plain,
        Self::Active,
        Self::Done,
        Self::Undone,
        Self::Trouble,
        Self::Skipped,
    ];

    fn of(instance: Option<&Instance>, step: &str) -> Self {
        let status = instance.and_then(|i| i.step(step)).map(|step| step.status);
        match status {
            None | Some(StepStatus::Pending) => Self::Plain,
            Some(StepStatus::Running | StepStatus::Compensating) => Self::Active,
            Some(StepStatus::Succeeded) => Self::Done,
            Some(
                StepStatus::Compensated
                | StepStatus::NullCompensated
                | StepStatus::CompensationSkipped,
            ) => Self::Undone,
            Some(StepStatus::Failed | StepStatus::Unknown) => Self::Trouble,
            Some(StepStatus::Skipped) => Self::Skipped,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Active => "active",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Trouble => "trouble",
            Self::Skipped => "skipped",
        }
    }

    /// Fill and line.
    fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::Plain => ("#f4f4f5", "#71717a"),
            Self::Active => ("#dbeafe", "#2563eb"),
            Self::Done => ("#dcfce7", "#16a34a"),
            Self::Undone => ("#fef3c7", "#d97706"),
            Self::Trouble => ("#fee2e2", "#dc2626"),
            Self::Skipped => ("#ffffff", "#a1a1aa"),
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox::Payload;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::definition::{Definition, Step, step::Replied};

    #[derive(Serialize, Deserialize)]
    struct Trip {}
    #[derive(Serialize, Deserialize)]
    struct Do {}
    impl Payload for Do {
        const KIND: &'static str = "do.v1";
    }

    fn step(name: &str) -> Replied<Trip> {
        Step::new(name)
            .command("t", |_: &Trip| Do {})
            .reply(|_: &mut Trip, _: Do| {})
    }

    fn plan() -> Plan {
        let undoable = |name| step(name).compensation(|_: &Trip| Do {});
        let definition = Definition::<Trip>::builder("trip", 1)
            .parallel([undoable("flight"), undoable("hotel").when(|_| false)])
            .pivot(step("<script>alert(\"&\")</script>"))
            .retriable(step("ticket"))
            .build();
        definition.unwrap().plan
    }

    #[test]
    fn the_flowchart_has_every_step_in_its_stage() {
        let drawn = plan().to_mermaid(None);
        let lines: Vec<_> = drawn.lines().map(str::trim).collect();
        assert_eq!(lines[0], "flowchart LR");
        for expected in [
            "s0[\"flight\"]:::plain",
            "s1[\"hotel (if wanted)\"]:::plain",
            "s2{{\"#lt;script#gt;alert(#quot;#amp;#quot;)#lt;/script#gt;\"}}:::plain",
            "s3([\"ticket\"]):::plain",
            "s0 --> s2",
            "s1 --> s2",
            "s2 --> s3",
        ] {
            assert!(lines.contains(&expected), "{expected}\n{drawn}");
        }
    }

    #[test]
    fn an_instance_colours_its_way() {
        let plan = plan();
        let data = serde_json::json!({});
        let start = crate::decide::start(&plan, uuid::Uuid::nil(), "key", &data);
        let (instance, _) = start.unwrap();
        let drawn = plan.to_mermaid(Some(&instance));
        assert!(drawn.contains("s0[\"flight\"]:::active"), "{drawn}");
        assert!(drawn.contains("]:::skipped"), "{drawn}");
        let drawn = plan.to_svg(Some(&instance));
        assert!(drawn.contains("class=\"step active\""), "{drawn}");
        assert!(drawn.contains("class=\"step skipped\""), "{drawn}");
    }

    #[test]
    fn nothing_in_a_name_is_markup() {
        let drawn = plan().to_svg(None);
        assert!(!drawn.contains("<script"), "{drawn}");
        assert!(drawn.contains("&lt;script&gt;"), "{drawn}");
        assert_eq!(drawn.matches("<rect").count(), 4);
        assert!(drawn.starts_with("<svg xmlns=") && drawn.trim_end().ends_with("</svg>"));
    }
}
