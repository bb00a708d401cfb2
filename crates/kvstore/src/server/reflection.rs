//! `grpc.reflection`: tools that ask a server what it speaks find every service and message here.

use tonic_reflection::server::{Builder, v1, v1alpha};

/// The compiled `proto/` files, as `build.rs` has them.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

fn builder() -> Builder<'static> {
    Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS)
}

/// The service as it is called today.
pub(super) fn v1() -> v1::ServerReflectionServer<impl v1::ServerReflection> {
    builder().build_v1().expect("our own descriptors are whole")
}

/// As older tools call it.
pub(super) fn v1alpha() -> v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection> {
    builder().build_v1alpha().expect("our own descriptors are whole")
}
