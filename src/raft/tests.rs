//! Peers on disks and a network in memory, in one thread whose time passes when nothing is to be done.

mod alone;
mod disks;
mod folders;
mod groups;
mod members;
mod random;
mod real;
mod snapshots;
mod world;
