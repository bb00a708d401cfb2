//! Which addresses do not answer, and which services have them as backends: so that a node that goes
//! costs what it had, not what there is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::ServiceKey;

/// What is known of the addresses of backends.
#[derive(Debug, Default)]
pub(super) struct Reach {
    unreachable: BTreeSet<IpAddr>,
    users: BTreeSet<(IpAddr, Arc<ServiceKey>)>,
}

impl Reach {
    /// A service has a backend there; true if it cannot be reached.
    pub(super) fn used(&mut self, ip: IpAddr, service: &Arc<ServiceKey>) -> bool {
        self.users.insert((ip, service.clone()));
        self.unreachable.contains(&ip)
    }

    /// The service no longer has one there.
    pub(super) fn unused(&mut self, ip: IpAddr, service: &Arc<ServiceKey>) {
        self.users.remove(&(ip, service.clone()));
    }

    /// An address can be reached again, or no longer; true if that is news.
    pub(super) fn set(&mut self, ip: IpAddr, unreachable: bool) -> bool {
        match unreachable {
            true => self.unreachable.insert(ip),
            false => self.unreachable.remove(&ip),
        }
    }

    /// How many addresses of services are followed.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// The services that have a backend there.
    pub(super) fn users(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<ServiceKey>> {
        let first = Arc::new(ServiceKey { namespace: String::new(), name: String::new() });
        self.users.range((ip, first)..).take_while(move |(of, _)| *of == ip).map(|(_, service)| service)
    }
}
