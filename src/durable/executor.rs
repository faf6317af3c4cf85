//! Where blocking disk work is done: on threads of its own, or in line.
//!
//! A role's disk loops are async only where they wait for work. In the program
//! each has a thread; in a simulation they are tasks of its one thread.

use std::future::Future;

use tokio::runtime::Handle;

/// Does blocking work away from the tasks that talk to the network.
#[derive(Debug, Clone)]
pub enum Executor {
    /// Threads beside this runtime.
    Threads(Handle),
    /// The thread that asks.
    Inline,
}

impl Executor {
    /// Starts a loop that does blocking work between its awaits.
    pub fn spawn(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        match self {
            Self::Threads(handle) => {
                let handle = handle.clone();
                std::thread::Builder::new().name(name.to_owned()).spawn(move || handle.block_on(work))?;
            }
            Self::Inline => drop(tokio::spawn(work)),
        }
        Ok(())
    }

    /// Does one piece of blocking work.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::Threads(handle) => match handle.spawn_blocking(work).await {
                Ok(value) => value,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            Self::Inline => work(),
        }
    }
}
