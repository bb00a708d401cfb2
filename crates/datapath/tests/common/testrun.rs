//! Frames given to an attached program by `BPF_PROG_TEST_RUN`, without a wire. By the system call itself:
//! aya makes no program of XDP out of what is attached already.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

/// The other ends of links (`bpf/peer.bpf.c`).
pub static PEER: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/peer.bpf.o"));

/// Verdicts of XDP.
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;
/// Of traffic control.
pub const TC_REDIRECT: u32 = 7;

/// `union bpf_attr` of this command.
#[derive(Debug, Default)]
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// An attached program.
pub struct Attached {
    program: aya::programs::ProgramFd,
    is_xdp: bool,
}

/// Attaches a program of [`PEER`] to an interface of the calling thread's namespace, as long as the object lives.
pub fn attach_peer(program: &str, interface: &str) -> Ebpf {
    let mut object = EbpfLoader::new().load(PEER).unwrap();
    load_peer(&mut object, program).attach(interface, XdpMode::Driver).unwrap();
    object
}

/// Loads a program of [`PEER`].
pub fn load_peer<'a>(object: &'a mut Ebpf, program: &str) -> &'a mut Xdp {
    let program: &mut Xdp = object.program_mut(program).unwrap().try_into().unwrap();
    program.load().unwrap();
    program
}

/// What a program says to a frame, and what it has made of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub verdict: u32,
    /// With the metadata in front, where there is some.
    pub frame: Vec<u8>,
}

impl Attached {
    /// The program whose link is pinned at this hook of a node's bpffs: `eth0_ingress`, `eth0_xdp_native`.
    pub fn find(bpffs: &Path, hook: &str) -> Self {
        let path = bpffs.join("causeway/links").join(hook);
        let link = FdLink::from(PinnedLink::from_pin(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")));
        let id = link.info().unwrap().program_id();
        let info = loaded_programs().flatten().find(|info| info.id() == id).unwrap();
        Self { program: info.fd().unwrap(), is_xdp: hook.contains("_xdp_") }
    }

    /// Gives it a frame as from the interface `ifindex` of the calling thread's namespace.
    pub fn run(&self, ifindex: u32, frame: &[u8]) -> Ran {
        let mut out = vec![0; 4096];
        let context: Vec<u32> = if self.is_xdp {
            // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
            vec![0, frame.len() as u32, 0, ifindex, 0, 0]
        } else {
            // The eleventh member of `struct __sk_buff`.
            [vec![0; 10], vec![ifindex]].concat()
        };
        let mut call = TestRun {
            prog_fd: self.program.as_fd().as_raw_fd() as u32,
            data_in: frame.as_ptr() as u64,
            data_size_in: frame.len() as u32,
            ctx_in: context.as_ptr() as u64,
            ctx_size_in: (context.len() * 4) as u32,
            data_out: out.as_mut_ptr() as u64,
            data_size_out: out.len() as u32,
            repeat: 1,
            ..TestRun::default()
        };
        // SAFETY: every pointer is to memory of the length beside it that lives until the call has ended.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut call, size_of::<TestRun>()) };
        assert_eq!(result, 0, "{} bytes: {}", frame.len(), std::io::Error::last_os_error());
        out.truncate(call.data_size_out as usize);
        Ran { verdict: call.retval, frame: out }
    }
}
