//! Compiles the messages of etcd v3 and of gRPC health with protox: no protoc is needed.

use std::path::Path;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["rpc.proto", "health.proto"], ["proto"])?;
    // What gRPC reflection tells of them.
    let descriptors = Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(descriptors, files.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").codec_path("crate::codec::SmallBuffers").compile_fds(files)?;
    Ok(())
}
