//! XDP at the native devices: services for clients outside, before the kernel makes packets of its own of
//! what comes in. Where it cannot be, the programs of traffic control serve the device as before.

use std::path::Path;

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use serde::Serialize;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::attach::{self, XdpHook};
use crate::maps::Table;
use crate::object::{self, Constants, Pins};
use crate::{Error, Sizes, netlink};

/// The map of the devices that have the program.
const DEVICES: &str = "cw_xdp_devices";

/// Whether XDP serves clients outside (`bpf-lb-acceleration`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acceleration {
    /// Traffic control alone.
    #[default]
    Disabled,
    /// In the drivers of all native devices; one that cannot is an error.
    Native,
    /// In those drivers that can.
    BestEffort,
    /// In the kernel's stack, which gains nothing and works with every device.
    Generic,
}

/// How one native device is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accelerated {
    /// Its name.
    pub device: String,
    /// `native` or `generic`; `None` = by traffic control alone.
    pub xdp: Option<&'static str>,
    /// Why it has not what was asked for.
    pub error: Option<String>,
}

/// `struct device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Device {
    pub(crate) mac: [u8; 6],
    pub(crate) pad: u16,
}

/// Makes it so for these devices, and for those of an earlier process that are not among them any more.
/// What fails is logged and in the result; the device has then what it had before.
pub(crate) fn apply(
    wanted: Acceleration,
    devices: &[String],
    pins: &Pins,
    constants: &Constants,
    sizes: &Sizes,
) -> Vec<Accelerated> {
    let (mode, name) = match wanted {
        Acceleration::Disabled => {
            attach::detach_xdp(&pins.links, |_| false);
            let _ = std::fs::remove_file(pins.maps.join(DEVICES));
            let none = |device: &String| Accelerated { device: device.clone(), xdp: None, error: None };
            return devices.iter().map(none).collect();
        }
        Acceleration::Generic => (XdpMode::Skb, "generic"),
        Acceleration::Native | Acceleration::BestEffort => (XdpMode::Driver, "native"),
    };
    attach::detach_xdp(&pins.links, |hook| {
        !constants.native && devices.iter().any(|device| device == hook.interface)
    });
    let mut programs = match constants.native {
        true => {
            Err(Error::Config("XDP knows backends of other nodes in the tunnel only (routing-mode)".into()))
        }
        false => Programs::load(pins, constants, sizes),
    };
    let attached = devices.iter().map(|device| {
        let hook = XdpHook { interface: device, mode: name };
        let error = match &mut programs {
            Ok(programs) => programs.attach(hook, mode, &pins.links).err().map(|error| chain(&error)),
            Err(error) => Some(chain(error)),
        };
        match &error {
            None => {
                tracing::info!(%device, mode = name, "services for clients outside are accelerated by XDP")
            }
            Some(error) if wanted == Acceleration::BestEffort => tracing::info!(
                %device, error, "the device cannot have XDP and is served by traffic control"
            ),
            Some(error) => tracing::error!(
                %device, error, "the device cannot have XDP (bpf-lb-acceleration) and stays as it was; set \
                 best-effort or disabled, or ask its driver for queues, offloads or an MTU that XDP can have"
            ),
        }
        let xdp = hook.has_pin(&pins.links).then_some(name);
        Accelerated { device: device.clone(), xdp, error }
    });
    attached.collect()
}

/// The loaded program with its map.
struct Programs {
    object: Ebpf,
    devices: Table<u32, Device>,
}

impl Programs {
    fn load(pins: &Pins, constants: &Constants, sizes: &Sizes) -> Result<Self, Error> {
        let mut object = object::load_xdp(pins, constants, sizes)?;
        let mut devices: Table<u32, Device> = Table::take(&mut object, DEVICES)?;
        // Those that are gone: an index may be another device's one day.
        for (index, _) in devices.entries()? {
            let name = netlink::run(None, async |host| host.name(index).await)?;
            if name.is_none() {
                devices.remove(&index)?;
            }
        }
        Ok(Self { object, devices })
    }

    fn attach(&mut self, hook: XdpHook<'_>, mode: XdpMode, links: &Path) -> Result<(), Error> {
        let program: &mut Xdp = self
            .object
            .program_mut("from_wire")
            .and_then(|program| program.try_into().ok())
            .expect("the embedded object has this program");
        attach::xdp(program, hook, mode, links)?;
        let (index, mac) = netlink::run(None, async |host| host.index_and_mac(hook.interface).await)?;
        self.devices.set(index, Device { mac, pad: 0 })
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = sources.map(ToString::to_string).collect();
    // Some errors repeat their sources.
    texts.dedup_by(|next, before| before.contains(next.as_str()));
    texts.join(": ")
}
