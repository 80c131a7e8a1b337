//! `recompense top`: how it is going, live.
//!
//! What passes here: answers of one service, asked again and again, and keys. Promised: the terminal is given back as it
//! was, whatever ends this; a service that is away is said so and asked again; it is never asked more than a fifth of the
//! time, so that looking does not become the load.

mod frame;
mod look;
mod rates;
mod screen;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use crate::{
    print,
    service::{Common, Service},
    top::{
        frame::{Frame, Scene},
        look::Look,
        rates::Rates,
        screen::{Key, Screen},
    },
    usage::Usage,
};

/// A look may take this part of the time between two.
const SHARE: u32 = 5;

/// Sagas by status with their rates and what they wait for; the outbox's leader, backlog and lag; what is parked; what
/// should not have happened. Keys: q ends, p pauses, arrows, PgUp and PgDn move, Home goes back to the top.
///
/// Any service will do: one without sagas shows its outbox. Counting sagas looks at each of them, so a service with very
/// many is asked less often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,

    /// Print one frame and end. Needs no terminal. The service is asked twice, for the rates.
    #[arg(long)]
    once: bool,

    /// Between two looks.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = chassis::config::duration)]
    interval: Duration,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let service = arguments.common.service()?;
    if arguments.once {
        return once(&arguments, &service).await;
    }
    if arguments.common.is_json() {
        return Err(Usage::new("--output json goes with --once").into());
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Usage::new("this is no terminal; say --once for one frame").into());
    }
    live(service, arguments.interval).await?;
    Ok(ExitCode::SUCCESS)
}

async fn once(arguments: &Arguments, service: &Service) -> Result<ExitCode> {
    let mut rates = Rates::default();
    rates.see(&look::look(service).await?);
    sleep(arguments.interval).await;
    let look = look::look(service).await?;
    rates.see(&look);
    if arguments.common.is_json() {
        let mut told = look.told();
        told["per_second"] = rates.told();
        print::json(&told)?;
        return Ok(ExitCode::SUCCESS);
    }
    let place = service.place();
    let scene = Scene {
        place: &place,
        interval: arguments.interval,
        look: Some(&look),
        rates: &rates,
        trouble: None,
        paused: false,
    };
    print::lines(&Frame::of(&scene).texts())?;
    Ok(ExitCode::SUCCESS)
}

/// What the one who asks the service has to say.
type Seen = Result<Look>;

async fn live(service: Service, interval: Duration) -> Result<()> {
    let place = service.place();
    let mut signals = Signals::new()?;
    let (paused, pausing) = watch::channel(false);
    let (see, mut seen) = mpsc::channel(1);
    let looking = tokio::spawn(keep_looking(service, interval, pausing, see));
    let mut screen = Screen::open()?;
    let mut keys = screen::keys();
    let mut view = View::default();
    loop {
        let scene = Scene {
            place: &place,
            interval,
            look: view.look.as_ref(),
            rates: &view.rates,
            trouble: view.trouble(),
            paused: *paused.borrow(),
        };
        screen.draw(&Frame::of(&scene))?;
        tokio::select! {
            () = signals.any() => break,
            key = keys.recv() => match key {
                None | Some(Key::Quit) => break,
                Some(Key::Pause) => paused.send_modify(|paused| *paused = !*paused),
                Some(Key::Move(by)) => screen.scroll(by),
                Some(Key::Top) => screen.scroll(i32::MIN),
                Some(Key::Other) => {}
            },
            Some(look) = seen.recv() => view.see(look),
            // The time for which a service is away goes on.
            () = sleep(interval.max(Duration::from_millis(100))), if view.away.is_some() => {}
        }
    }
    looking.abort();
    screen.close()
}

async fn keep_looking(
    service: Service,
    interval: Duration,
    mut pausing: watch::Receiver<bool>,
    see: mpsc::Sender<Seen>,
) {
    loop {
        if pausing.wait_for(|paused| !*paused).await.is_err() {
            return;
        }
        let began = Instant::now();
        let look = look::look(&service).await;
        if see.send(look).await.is_err() {
            return;
        }
        let took = began.elapsed();
        sleep(interval.saturating_sub(took).max(took * (SHARE - 1))).await;
    }
}

/// What was seen last.
#[derive(Default)]
struct View {
    look: Option<Look>,
    rates: Rates,
    away: Option<(Instant, String)>,
}

impl View {
    fn see(&mut self, seen: Seen) {
        match seen {
            Ok(look) => {
                self.rates.see(&look);
                self.look = Some(look);
                self.away = None;
            }
            Err(error) => {
                let since = self
                    .away
                    .take()
                    .map_or_else(Instant::now, |(since, _)| since);
                self.away = Some((since, format!("{error:#}")));
            }
        }
    }

    fn trouble(&self) -> Option<(Duration, &str)> {
        let away = self.away.as_ref();
        away.map(|(since, error)| (since.elapsed(), error.as_str()))
    }
}

/// What ends a program.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [one, two, three] = &mut self.0;
        tokio::select! {
            _ = one.recv() => {}
            _ = two.recv() => {}
            _ = three.recv() => {}
        }
    }
}
