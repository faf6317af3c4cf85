//! The generated gRPC code.

/// Messages and services of `proto/family.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod family {
    tonic::include_proto!("family");
}
