//! hatokuse: a fault-tolerant, distributed disk register.
//!
//! A leader takes `SET <id> <message>` and `GET <id>`, keeps each message on as
//! many nodes as its tolerance says, and answers `OK` only when they all hold
//! it and its own log says so. Programs use the [`client`]:
//!
//! ```no_run
//! # async fn example() -> Result<(), hatokuse::client::Error> {
//! let mut client = hatokuse::client::Client::connect("127.0.0.1:6666").await?;
//! client.set("1", "Merhaba Dünya").await?;
//! assert_eq!(client.get("1").await?.as_deref(), Some("Merhaba Dünya".as_bytes()));
//! # Ok(()) }
//! ```
//!
//! The other modules are the program itself; they are public for `main`, the
//! tests and the examples, and promise no stable interface. `docs/architecture.md` has the map.

pub mod client;
pub mod error;
pub mod types;

#[doc(hidden)]
pub mod acl;
#[doc(hidden)]
pub mod archive;
#[doc(hidden)]
pub mod backup;
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod cluster;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod dashboard;
#[doc(hidden)]
pub mod durable;
#[doc(hidden)]
pub mod environment;
#[doc(hidden)]
pub mod file_names;
#[doc(hidden)]
pub mod leader;
#[doc(hidden)]
pub mod local_nodes;
#[doc(hidden)]
pub mod lock;
#[doc(hidden)]
pub mod logs;
#[doc(hidden)]
pub mod node;
#[doc(hidden)]
pub mod process;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod raft;
#[doc(hidden)]
pub mod seeded;
#[doc(hidden)]
pub mod settings_file;
#[doc(hidden)]
pub mod stop;
#[doc(hidden)]
pub mod telemetry;
#[doc(hidden)]
pub mod terminal;
#[doc(hidden)]
pub mod tls;
#[doc(hidden)]
pub mod wire;

/// The version of this build with its git commit, as `--version` prints it.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("HATOKUSE_COMMIT"), ")");
