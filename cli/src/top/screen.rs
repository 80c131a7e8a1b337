//! The terminal: taken, drawn on, and given back as it was.
//!
//! It is given back when [`Screen`] is dropped, and before a panic is told, so that one can read it. What it cannot
//! help is `kill -9`; `reset` does.

use std::{
    io::{self, Write},
    panic,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result};
use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, read},
    execute, queue,
    style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor},
    terminal::{
        Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
        enable_raw_mode, size,
    },
};
use tokio::sync::mpsc;

use crate::{
    print::printable,
    top::frame::{Frame, Tone},
};

/// Whether it is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, while it is ours.
pub(crate) struct Screen {
    /// The first line that is shown.
    from: usize,
    /// Lines of the last frame, and of the terminal.
    lines: usize,
    rows: usize,
}

/// What a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Quit,
    Pause,
    /// By so many lines downwards.
    Move(i32),
    Top,
    /// The terminal has another size, or nothing that means anything.
    Other,
}

impl Screen {
    pub(crate) fn open() -> Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let _ = give_back();
            before(panic);
        }));
        enable_raw_mode().context("cannot take the terminal")?;
        TAKEN.store(true, Ordering::SeqCst);
        // From here on it is given back however this ends.
        let screen = Self {
            from: 0,
            lines: 0,
            rows: 0,
        };
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    pub(crate) fn draw(&mut self, frame: &Frame) -> Result<()> {
        let (columns, rows) = size().context("cannot tell the terminal's size")?;
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        (self.lines, self.rows) = (frame.lines.len(), rows);
        self.scroll(0);
        let mut out = io::BufWriter::new(io::stdout().lock());
        let shown = frame.lines.iter().skip(self.from).take(rows);
        for (row, (tone, line)) in shown.enumerate() {
            let row = u16::try_from(row).unwrap_or(u16::MAX);
            let line: String = printable(line).chars().take(columns).collect();
            // Before it is written to: the cursor does not go beyond the last column.
            queue!(out, MoveTo(0, row), Clear(ClearType::CurrentLine))?;
            match tone {
                Tone::Plain => {}
                Tone::Heading => queue!(out, SetAttribute(Attribute::Bold))?,
                Tone::Bad => queue!(
                    out,
                    SetAttribute(Attribute::Bold),
                    SetForegroundColor(Color::Red)
                )?,
                Tone::Quiet => queue!(out, SetAttribute(Attribute::Dim))?,
            }
            queue!(out, Print(line), SetAttribute(Attribute::Reset), ResetColor)?;
        }
        let below = (self.lines - self.from).min(rows);
        if below < rows {
            let row = u16::try_from(below).unwrap_or(u16::MAX);
            queue!(out, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        }
        Ok(out.flush()?)
    }

    /// Moves, as far as there is something to see.
    pub(crate) fn scroll(&mut self, by: i32) {
        self.from = moved(self.from, by, self.lines, self.rows);
    }

    /// Gives it back, and says if that failed.
    pub(crate) fn close(self) -> Result<()> {
        give_back().context("cannot give the terminal back; reset does")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = give_back();
    }
}

/// Once, whoever comes first.
fn give_back() -> io::Result<()> {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let drawn = execute!(io::stdout(), Show, LeaveAlternateScreen);
    disable_raw_mode()?;
    drawn
}

/// Keys, as they are pressed. The thread that waits for them ends with the process.
pub(crate) fn keys() -> mpsc::Receiver<Key> {
    let (pressed, keys) = mpsc::channel(16);
    thread::spawn(move || {
        while let Ok(event) = read() {
            if pressed.blocking_send(key(&event)).is_err() {
                return;
            }
        }
    });
    keys
}

fn key(event: &Event) -> Key {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press | KeyEventKind::Repeat,
        ..
    }) = event
    else {
        return Key::Other;
    };
    match code {
        // A terminal that is taken makes no signal of it.
        KeyCode::Char('c' | 'd') if modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('p' | 'P' | ' ') => Key::Pause,
        KeyCode::Up | KeyCode::Char('k') => Key::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Key::Move(1),
        KeyCode::PageUp => Key::Move(-10),
        KeyCode::PageDown => Key::Move(10),
        KeyCode::Home => Key::Top,
        _ => Key::Other,
    }
}

/// The first line after a move. The last one stays in sight.
fn moved(from: usize, by: i32, lines: usize, rows: usize) -> usize {
    let last = lines.saturating_sub(rows);
    let to = i64::try_from(from).unwrap_or(i64::MAX) + i64::from(by);
    usize::try_from(to.max(0)).unwrap_or(last).min(last)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd, process::Command, process::Stdio};

    use rustix::{
        fs::{Mode, OFlags},
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{Termios, tcgetattr},
    };

    use super::*;

    #[test]
    fn one_moves_as_far_as_there_is_something_to_see() {
        assert_eq!(moved(0, 1, 30, 10), 1);
        assert_eq!(moved(0, -1, 30, 10), 0);
        assert_eq!(moved(15, 10, 30, 10), 20);
        assert_eq!(moved(15, i32::MIN, 30, 10), 0);
        // Fewer lines than before, and none to move to.
        assert_eq!(moved(25, 0, 12, 10), 2);
        assert_eq!(moved(3, 1, 5, 10), 0);
    }

    #[test]
    fn keys_mean_what_the_help_says() {
        let press = |code, modifiers| key(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |code| press(code, KeyModifiers::NONE);
        let control = |char| press(KeyCode::Char(char), KeyModifiers::CONTROL);
        assert_eq!([plain(KeyCode::Char('q')), control('c')], [Key::Quit; 2]);
        assert_eq!(plain(KeyCode::Char('p')), Key::Pause);
        assert_eq!(plain(KeyCode::Up), Key::Move(-1));
        assert_eq!(plain(KeyCode::PageDown), Key::Move(10));
        assert_eq!(plain(KeyCode::Home), Key::Top);
        assert_eq!(plain(KeyCode::Char('c')), Key::Other);
        assert_eq!(key(&Event::Resize(1, 1)), Key::Other);
    }

    /// Says in the child's environment that it is to panic.
    const PANICS: &str = "RECOMPENSE_TEST_PANICS";

    /// Not a test of its own: what the next one runs in a terminal.
    #[test]
    fn a_child_panics() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::open().unwrap();
            panic!("at the disco");
        }
    }

    #[test]
    fn a_panic_is_told_on_a_terminal_that_was_given_back() {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            File::from(rustix::fs::open(&name, flags, Mode::empty()).unwrap())
        };
        let terminal = open();
        let settings = || -> Termios { tcgetattr(terminal.as_fd()).unwrap() };
        let before = settings();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "top::screen::tests::a_child_panics",
                "--nocapture",
            ])
            .env(PANICS, "1")
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .unwrap();
        let mut controller = File::from(controller);
        let reading = thread::spawn(move || {
            let (mut told, mut bytes) = (Vec::new(), [0; 4096]);
            // An error is that nobody has the terminal any more.
            while let Ok(read) = controller.read(&mut bytes) {
                told.extend_from_slice(&bytes[..read]);
            }
            String::from_utf8_lossy(&told).into_owned()
        });
        assert!(!child.wait().unwrap().success());
        let after = settings();
        assert_eq!(after.local_modes, before.local_modes);
        assert_eq!(after.input_modes, before.input_modes);
        drop(terminal);
        let told = reading.join().unwrap();
        let place = |text: &str| {
            told.find(text)
                .unwrap_or_else(|| panic!("no {text:?}: {told:?}"))
        };
        assert!(place("\u{1b}[?1049h") < place("\u{1b}[?1049l"), "{told:?}");
        assert!(place("\u{1b}[?1049l") < place("at the disco"), "{told:?}");
    }
}
