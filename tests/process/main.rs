//! The register from outside: real processes, real sockets, real disks.
//!
//! Each test is a short story on a cluster of its own, which ends with it. Ports
//! are chosen by the system, and every wait is for a condition with a deadline.

mod backups;
mod bench;
mod cli;
mod damage;
mod deletes;
mod disks;
mod door;
mod environment;
mod expiry;
mod faults;
mod figures;
mod files;
mod foreign;
mod grpc;
mod grpc_door;
mod hostile;
mod http;
mod layers;
mod layouts;
mod leader_faults;
mod leaders;
mod modes;
mod mounts;
mod nodes;
mod peer_clients;
mod peer_disks;
mod peer_http;
mod peer_leave;
mod peer_orders;
mod peer_scripts;
mod peers;
mod protocol;
mod refusals;
mod removal;
mod repair;
mod resp;
mod scripts;
mod sentinel;
mod slips;
mod starts;
mod strangers;
mod support;
mod support_load;
mod tls;
#[path = "../tools/mod.rs"]
mod tools;
mod unnoted;
mod users;
