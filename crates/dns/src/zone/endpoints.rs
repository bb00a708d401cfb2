//! The endpoints behind a service or an import, as names see them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_model::{EndpointSlice, ExportType, ServiceImport, ServiceKey, SliceKey, SlicePort};

use super::Zone;

/// One address of a ready endpoint.
#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    pub(super) address: IpAddr,
    /// The host name somebody chose for the endpoint; empty = none.
    hostname: &'a str,
    /// The cluster it is in.
    pub(super) cluster: &'a str,
    /// The ports it serves.
    pub(super) ports: &'a [SlicePort],
}

impl Target<'_> {
    /// Whether somebody chose its label.
    pub(super) fn is_named(&self) -> bool {
        !self.hostname.is_empty()
    }

    /// Its label: the host name, else the address with dashes.
    pub(super) fn label(&self) -> String {
        if self.is_named() { self.hostname.to_ascii_lowercase() } else { dashed(self.address) }
    }

    /// Whether that is its label.
    pub(super) fn is_called(&self, label: &str) -> bool {
        if self.is_named() {
            self.hostname.eq_ignore_ascii_case(label)
        } else {
            undashed(label) == Some(self.address)
        }
    }
}

/// The label of an address: `10-1-2-3`, `fd00--3`; never with a dash at an end, which no label has.
pub(super) fn dashed(address: IpAddr) -> String {
    let text = address.to_string().replace(['.', ':'], "-");
    let head = if text.starts_with('-') { "0" } else { "" };
    let tail = if text.ends_with('-') { "0" } else { "" };
    format!("{head}{text}{tail}")
}

/// The address of such a label.
pub(super) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

impl Zone {
    /// The ready endpoints of a service, those of other clusters too where their slices are mirrored; in order of slices,
    /// an address that several slices name once per label and cluster.
    pub(super) fn targets_of_service(&self, key: &ServiceKey) -> Vec<Target<'_>> {
        self.targets_in(self.of_service.get(key).into_iter().flatten())
    }

    /// The ready endpoints of a headless import in all clusters: those whose slices say so, and those of the Service
    /// that stands for the import here.
    pub(super) fn targets_of_import(&self, import: &ServiceImport) -> Vec<Target<'_>> {
        if import.kind != ExportType::Headless {
            return vec![];
        }
        let derived = import
            .derived
            .as_ref()
            .map(|name| ServiceKey { namespace: import.key.namespace.clone(), name: name.clone() });
        let by_label = self.of_import.get(&import.key).into_iter().flatten();
        let by_service = derived.and_then(|key| self.of_service.get(&key)).into_iter().flatten();
        self.targets_in(by_label.chain(by_service).collect::<BTreeSet<_>>())
    }

    /// The ready endpoints of a slice.
    pub(super) fn targets_of_slice<'a>(
        &'a self,
        slice: &'a EndpointSlice,
    ) -> impl Iterator<Item = Target<'a>> {
        let cluster = slice.source_cluster.as_deref().unwrap_or(&self.settings.cluster_name);
        // With publishNotReadyAddresses, Kubernetes' own controller lists them as ready.
        slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready).flat_map(move |endpoint| {
            endpoint.addresses.iter().map(move |&address| {
                let hostname = endpoint.hostname.as_str();
                Target { address, hostname, cluster, ports: &slice.ports }
            })
        })
    }

    fn targets_in<'a>(&'a self, slices: impl IntoIterator<Item = &'a SliceKey>) -> Vec<Target<'a>> {
        let slices = slices.into_iter().filter_map(|key| self.slices.get(key));
        slices.flat_map(|slice| self.targets_of_slice(slice)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_labels() {
        for (address, label) in [
            ("10.1.2.3", "10-1-2-3"),
            ("fd00::3", "fd00--3"),
            ("::1", "0--1"),
            ("fd00::", "fd00--0"),
            ("::", "0--0"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(dashed(address), label);
            assert_eq!(undashed(label), Some(address), "{label}");
        }
        for none in ["", "10-1-2", "10-1-2-256", "web", "10-1-2-3-4", "-1"] {
            assert_eq!(undashed(none), None, "{none}");
        }
    }
}
