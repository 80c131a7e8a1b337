//! Apache Kafka: one KRaft node of our own, or the broker that an environment variable names.
//!
//! *What passes here*: a bootstrap address that answers. *Promised*: the real broker from its published jars, fetched once;
//! topics only when somebody creates them; the same port and data after [`Kafka::restart`]. *Not promised*: replication, of
//! which one node has none. *If we die*, the broker is killed and its throw-away data goes.

mod broker;
mod jars;
mod options;

use std::path::Path;

use anyhow::{Result, bail};
use broker::Broker;

pub use options::{Jvm, Options};

/// A running broker. Dropped, it is killed, and its throw-away data removed.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    /// Absent when the broker was there before us.
    broker: Option<Broker>,
}

impl Kafka {
    /// Starts a broker with the defaults.
    ///
    /// # Errors
    /// If Java or Maven is missing, the jars cannot be fetched, or the broker does not start; its log's end is in the error.
    pub async fn start() -> Result<Kafka> {
        Kafka::start_with(Options::default()).await
    }

    /// Starts a broker.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub async fn start_with(options: Options) -> Result<Kafka> {
        let broker = Broker::start(jars::installed().await?, options).await?;
        Ok(Kafka {
            bootstrap: format!("127.0.0.1:{}", broker.port()),
            broker: Some(broker),
        })
    }

    /// A broker that runs already.
    #[must_use]
    pub fn existing(bootstrap: &str) -> Kafka {
        Kafka {
            bootstrap: bootstrap.to_owned(),
            broker: None,
        }
    }

    /// The address to give to clients, `host:port`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The process id of the broker, while it runs and is ours.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.broker.as_ref().and_then(Broker::pid)
    }

    /// The folder with its data, if the broker is ours.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.broker.as_ref().map(Broker::folder)
    }

    /// The end of the broker's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.broker
            .as_ref()
            .map(Broker::log_tail)
            .unwrap_or_default()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If the broker is not ours, or does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.ours()?.kill()
    }

    /// An orderly shutdown; SIGKILL if that takes too long.
    ///
    /// # Errors
    /// If the broker is not ours.
    pub async fn stop(&mut self) -> Result<()> {
        self.ours()?.stop().await
    }

    /// Starts the broker again on the same data and port, stopping it first if it runs.
    ///
    /// # Errors
    /// If the broker is not ours, or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        let broker = self.ours()?;
        broker.stop().await?;
        broker.run().await
    }

    /// Freezes the broker: connections stay open and nothing answers, as in a long pause of its machine.
    ///
    /// # Errors
    /// If the broker is not ours, or does not run.
    pub fn suspend(&mut self) -> Result<()> {
        self.ours()?.signal("STOP")
    }

    /// Lets a suspended broker go on.
    ///
    /// # Errors
    /// If the broker is not ours, or does not run.
    pub fn resume(&mut self) -> Result<()> {
        self.ours()?.signal("CONT")
    }

    /// Lets the broker and its data live on without us.
    pub fn detach(&mut self) {
        if let Some(broker) = &mut self.broker {
            broker.detach();
        }
    }

    fn ours(&mut self) -> Result<&mut Broker> {
        match &mut self.broker {
            Some(broker) => Ok(broker),
            None => bail!(
                "this Kafka was not started here: start one with Kafka::start to stop or kill it"
            ),
        }
    }
}
