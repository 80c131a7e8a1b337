//! A terminal for the program, and what a person would see and press.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};
use tokio::process::{Child, Command};

use crate::room::SOON;

/// Stands for the end of what was written.
const END: &str = "-- the end --";

/// A program in a terminal of its own.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    controller: File,
    /// The program's side, kept open to look at its settings.
    side: File,
    before: Termios,
    told: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `command` in a terminal of 100 columns and 40 rows. Only `terminal` of its streams are that one:
    /// 0 is stdin, 1 stdout, 2 stderr.
    pub(crate) fn start(mut command: Command, terminal: &[usize]) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let name = ptsname(&controller, Vec::new()).unwrap();
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            File::from(rustix::fs::open(&name, flags, Mode::empty()).unwrap())
        };
        let side = open();
        tcsetwinsize(&side, size).unwrap();
        let before = tcgetattr(side.as_fd()).unwrap();
        let stream = |number| match terminal.contains(&number) {
            true => Stdio::from(open()),
            false => Stdio::null(),
        };
        command.stdin(stream(0)).stdout(stream(1)).stderr(stream(2));
        let child = command.kill_on_drop(true).spawn().unwrap();
        let controller = File::from(controller);
        let told = Arc::new(Mutex::new(Vec::new()));
        let (mut reading, telling) = (controller.try_clone().unwrap(), told.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = reading.read(&mut bytes) {
                telling.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Self {
            child,
            controller,
            side,
            before,
            told,
        }
    }

    /// Everything that came, with the terminal's commands.
    pub(crate) fn told(&self) -> String {
        String::from_utf8_lossy(&self.told.lock().unwrap()).into_owned()
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this has come.
    pub(crate) async fn until(&self, text: &str) {
        testbed::until(SOON, text, async || {
            self.told().contains(text).then_some(())
        })
        .await;
    }

    /// Waits until this has come once more than before.
    pub(crate) async fn until_again(&self, text: &str) {
        let before = self.told().matches(text).count();
        let more = async || (self.told().matches(text).count() > before).then_some(());
        testbed::until(SOON, text, more).await;
    }

    /// Waits for the program's end, and sees that the terminal is as it was.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let status = tokio::time::timeout(SOON, self.child.wait()).await;
        let status = status.expect("it ends").unwrap();
        let after = tcgetattr(self.side.as_fd()).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        // What the program wrote comes before what is written after its end.
        self.side.write_all(END.as_bytes()).unwrap();
        self.until(END).await;
        let told = self.told().replace(END, "");
        *self.told.lock().unwrap() = told.into_bytes();
        status.code()
    }
}
