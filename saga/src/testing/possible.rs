//! What may happen next in a scene: what is in flight arrives, twice, or never; time passes; a claim
//! is settled; a person intervenes. Each only as far as the scene's allowance goes.

use crate::{
    decide,
    intervention::{OperationName, What},
    operation::Phase,
    testing::{
        claims::Claimed,
        given::Given,
        moves::{Fate, Move, Place},
        participants::Will,
        scene::{Scene, person},
    },
};

impl Scene {
    /// Everything that may happen next.
    pub(crate) fn moves(&self, given: &Given) -> Vec<Move> {
        let given = given.version(self.course.instance.version);
        let mut moves = Vec::new();
        self.commands_move(&mut moves);
        self.replies_move(&mut moves);
        for (step, round) in self.participants.running() {
            for will in self.wills().iter().copied() {
                let place = Place::action(step, round);
                moves.push(Move::Finish { place, will });
            }
        }
        let quiet = moves.is_empty();
        if quiet || self.allowance.early_timeouts > 0 {
            let due = self.course.timers.keys();
            // A timer of a paused saga comes to nothing.
            let due = due.filter(|(step, _)| !self.course.instance.paused || step.is_empty());
            moves.extend(due.map(|(step, phase)| Move::Timer {
                step: step.clone(),
                phase,
            }));
        }
        for (resource, claimed) in self.claims.open() {
            // Whoever waits has asked for no more than there is.
            let answers = match self.allowance.refusals > 0 && claimed == Claimed::Asked {
                true => &[true, false][..],
                false => &[true],
            };
            moves.extend(answers.iter().map(|granted| Move::Lock {
                resource: resource.to_owned(),
                granted: *granted,
            }));
        }
        if self.allowance.interventions > 0 {
            self.persons_move(given, &mut moves);
        }
        moves
    }

    fn wills(&self) -> &'static [Will] {
        match self.allowance.refusals {
            0 => &[Will::Succeed],
            _ => &[Will::Succeed, Will::Refuse],
        }
    }

    fn fates(&self) -> Vec<Fate> {
        let mut fates = vec![Fate::Arrives];
        if self.allowance.duplicates > 0 {
            fates.push(Fate::ArrivesAndComesAgain);
        }
        if self.allowance.losses > 0 {
            fates.push(Fate::IsLost);
        }
        fates
    }

    fn commands_move(&self, moves: &mut Vec<Move>) {
        for (place, probe) in self.commands.keys() {
            if self.participants.is_running(place) {
                continue;
            }
            let open = place.phase() == Phase::Action && !probe && !self.participants.knows(place);
            let wills = if open { self.wills() } else { &[Will::Succeed] };
            for fate in self.fates() {
                let wills = if fate == Fate::IsLost {
                    &wills[..1]
                } else {
                    wills
                };
                moves.extend(wills.iter().map(|will| Move::Command {
                    place: place.clone(),
                    probe: *probe,
                    will: *will,
                    fate,
                }));
            }
        }
    }

    fn replies_move(&self, moves: &mut Vec<Move>) {
        for ((place, _), (_, reply)) in &self.replies {
            moves.extend(self.fates().into_iter().map(|fate| Move::Reply {
                place: place.clone(),
                outcome: reply.answer.outcome(),
                fate,
            }));
        }
    }

    fn persons_move(&self, given: &Given, moves: &mut Vec<Move>) {
        let allowed = decide::allowed(&given.plan, &self.course.instance);
        let allowed = allowed
            .into_iter()
            .filter(|one| one.refused_because.is_none());
        for allowed in allowed {
            let open = |phase| {
                let steps = self.course.instance.steps.iter();
                let open = steps.filter(move |s| s.waiting.is_some() && s.phase() == phase);
                open.map(|step| step.name.clone())
            };
            match allowed.operation {
                OperationName::Pause => moves.push(Move::Person(What::Pause {})),
                OperationName::Resume => moves.push(Move::Person(What::Resume {})),
                OperationName::Cancel => moves.push(Move::Person(What::Cancel {})),
                OperationName::Retry => moves.push(Move::Person(What::Retry { step: None })),
                OperationName::CompleteStep => {
                    moves.extend(open(Phase::Action).map(|step| {
                        let reply = serde_json::from_slice(given.sample(&step));
                        let reply = reply.unwrap_or_default();
                        Move::Person(What::CompleteStep { step, reply })
                    }));
                }
                OperationName::SkipCompensation => {
                    moves.extend(
                        open(Phase::Compensation)
                            .map(|step| Move::Person(What::SkipCompensation { step })),
                    );
                }
                OperationName::Abandon => moves.push(Move::Person(What::Abandon {})),
                OperationName::Migrate => {
                    if let Some(to) = given.next() {
                        let wish = person(What::Migrate {
                            to: to.plan.version,
                        });
                        let now = &self.course.instance;
                        // Where the target does not fit, it is refused with the reason.
                        if decide::migrate(&given.plan, &to.plan, now, &wish).is_ok() {
                            moves.push(Move::Person(wish.what));
                        }
                    }
                }
            }
        }
    }
}
