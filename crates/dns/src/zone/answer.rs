//! From a question to its answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_model::{ExportType, Protocol, Service, ServiceImport, ServiceKey, ServiceType};

use super::endpoints::{Target, undashed};
use super::{Owner, Zone};
use crate::wire::RecordType;
use crate::{Name, Record, RecordData, Soa};

/// Schema of the names of this cluster, and of the cluster set.
const SCHEMA: &str = "1.1.0";
const CLUSTERSET_SCHEMA: &str = "1.0.0";
/// Seconds a secondary server would wait; nobody transfers these zones.
const SECONDARY: [u32; 3] = [7200, 1800, 86400];
/// Shares of SRV records add up to about this.
const WEIGHT: usize = 100;

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What became of the question.
    pub outcome: Outcome,
    /// The records asked for.
    pub answers: Vec<Record>,
    /// The start of the zone, for answers that say no.
    pub authority: Vec<Record>,
    /// What the client will ask next.
    pub additional: Vec<Record>,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There are records.
    Found,
    /// The name is another name for this one, which is to be asked for.
    Alias(Name),
    /// The name exists, records of this type do not.
    NoData,
    /// The name does not exist.
    NoName,
    /// Not all is known yet.
    NotReady,
    /// The name is not in our domains.
    Foreign,
}

/// What the name of a service leads to.
enum Meaning<'a> {
    Service(&'a Service),
    Import(&'a ServiceImport),
}

impl Answer {
    fn of(outcome: Outcome) -> Self {
        Self { outcome, answers: vec![], authority: vec![], additional: vec![] }
    }

    fn found(answers: Vec<Record>, additional: Vec<Record>) -> Option<Self> {
        let outcome = if answers.is_empty() { Outcome::NoData } else { Outcome::Found };
        Some(Self { answers, additional, ..Self::of(outcome) })
    }

    /// The name exists, without records of the type.
    fn nothing() -> Option<Self> {
        Some(Self::of(Outcome::NoData))
    }
}

impl Zone {
    /// The answer to a question; always the same order for the same state.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let Some(domain) = self.domain_of(name) else { return self.reverse(name, kind) };
        if !self.is_complete() {
            return Answer::of(Outcome::NotReady);
        }
        let relative = name.relative_to(domain);
        let found = relative.and_then(|labels| {
            if Some(domain) == self.settings.cluster_domain.as_ref() {
                self.in_cluster(name, domain, &labels, kind)
            } else {
                self.in_clusterset(name, domain, &labels, kind)
            }
        });
        let mut answer = found.unwrap_or_else(|| Answer::of(Outcome::NoName));
        if matches!(answer.outcome, Outcome::NoData | Outcome::NoName) {
            answer.authority.push(self.start_of(domain));
        }
        answer
    }

    /// `None` = there is no such name.
    fn in_cluster(&self, name: &Name, domain: &Name, labels: &[&str], kind: RecordType) -> Option<Answer> {
        let service = |name: &&str, namespace: &&str| {
            let key = ServiceKey { namespace: (*namespace).to_owned(), name: (*name).to_owned() };
            self.services.get(&key).map(Meaning::Service)
        };
        match labels {
            [] => self.apex(domain, kind),
            ["dns-version"] => self.version(name, SCHEMA, kind),
            ["svc"] | ["pod"] | [_, "pod"] => Answer::nothing(),
            [namespace, "svc"] => self.namespaces.contains_key(*namespace).then(Answer::nothing)?,
            [label, _, "pod"] => {
                let address = undashed(label)?;
                Answer::found(self.addresses(name, kind, [address]), vec![])
            }
            [first, namespace, "svc"] => self.service(name, &service(first, namespace)?, kind),
            [prefix @ .., first, namespace, "svc"] if prefix.len() <= 2 => {
                self.below(name, domain, prefix, &service(first, namespace)?, kind)
            }
            _ => None,
        }
    }

    /// `None` = there is no such name.
    fn in_clusterset(&self, name: &Name, domain: &Name, labels: &[&str], kind: RecordType) -> Option<Answer> {
        let import = |name: &&str, namespace: &&str| {
            let key = ServiceKey { namespace: (*namespace).to_owned(), name: (*name).to_owned() };
            self.imports.get(&key).map(Meaning::Import)
        };
        match labels {
            [] => self.apex(domain, kind),
            ["dns-version"] => self.version(name, CLUSTERSET_SCHEMA, kind),
            ["svc"] => Answer::nothing(),
            [namespace, "svc"] => self.import_namespaces.contains_key(*namespace).then(Answer::nothing)?,
            [first, namespace, "svc"] => self.service(name, &import(first, namespace)?, kind),
            [prefix @ .., first, namespace, "svc"] if prefix.len() <= 2 => {
                self.below(name, domain, prefix, &import(first, namespace)?, kind)
            }
            _ => None,
        }
    }

    /// `<service>.<namespace>.svc`.
    fn service(&self, name: &Name, meaning: &Meaning<'_>, kind: RecordType) -> Option<Answer> {
        let (ips, headless) = match meaning {
            Meaning::Service(service) if service.kind == ServiceType::ExternalName => {
                return self.alias(name, service.external_name.as_deref(), kind);
            }
            Meaning::Service(service) => (&service.cluster_ips, service.headless),
            Meaning::Import(import) => (&import.ips, import.kind == ExportType::Headless),
        };
        if !headless {
            return Answer::found(self.addresses(name, kind, ips.iter().copied()), vec![]);
        }
        // Without ready endpoints the name does not exist (section 2.4.1 of both schemas).
        let targets = self.targets(meaning);
        let all = targets.iter().map(|target| target.address);
        if targets.is_empty() { None } else { Answer::found(self.addresses(name, kind, all), vec![]) }
    }

    /// What is beneath a service's name: ports and endpoints.
    fn below(
        &self,
        name: &Name,
        domain: &Name,
        prefix: &[&str],
        meaning: &Meaning<'_>,
        kind: RecordType,
    ) -> Option<Answer> {
        match prefix {
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                self.port(name, domain, &port[1..], &protocol[1..], meaning, kind)
            }
            [protocol] if protocol.starts_with('_') => {
                let protocol = protocol_of(&protocol[1..])?;
                let ports = self.named_ports(meaning);
                ports.iter().any(|(_, of, _)| *of == protocol).then(Answer::nothing)?
            }
            _ => {
                let targets = self.targets(meaning);
                let is_import = matches!(meaning, Meaning::Import(_));
                let fits = |target: &&Target<'_>| match prefix {
                    [host] if !is_import => target.is_called(host),
                    [host, cluster] if is_import => {
                        target.is_called(host) && target.cluster.eq_ignore_ascii_case(cluster)
                    }
                    _ => false,
                };
                let found: Vec<_> = targets.iter().filter(fits).map(|target| target.address).collect();
                if !found.is_empty() {
                    return Answer::found(self.addresses(name, kind, found), vec![]);
                }
                // A cluster is nothing by itself, but there are names beneath it.
                let is_cluster = |target: &Target<'_>| {
                    is_import && matches!(prefix, [cluster] if target.cluster.eq_ignore_ascii_case(cluster))
                };
                targets.iter().any(is_cluster).then(Answer::nothing)?
            }
        }
    }

    /// `_<port>._<protocol>.<service>…`.
    fn port(
        &self,
        name: &Name,
        domain: &Name,
        port: &str,
        protocol: &str,
        meaning: &Meaning<'_>,
        kind: RecordType,
    ) -> Option<Answer> {
        // Ports without a name have no record.
        let protocol = protocol_of(protocol).filter(|_| !port.is_empty())?;
        let (key, addresses, headless) = match meaning {
            Meaning::Service(service) => (&service.key, &service.cluster_ips, service.headless),
            Meaning::Import(import) => (&import.key, &import.ips, import.kind == ExportType::Headless),
        };
        let owner = domain.under(&format!("{}.{}.svc", key.name, key.namespace))?;
        let mut found: BTreeSet<(Name, u16)> = BTreeSet::new();
        let mut additional = vec![];
        if headless {
            for target in self.targets(meaning) {
                let of_port = |p: &&causeway_model::SlicePort| p.name == port && p.protocol == protocol;
                let Some(number) = target.ports.iter().find(of_port).map(|p| p.port) else { continue };
                let host = match meaning {
                    Meaning::Service(_) => owner.under(&target.label()),
                    Meaning::Import(_) => owner.under(&format!("{}.{}", target.label(), target.cluster)),
                };
                // A host name that makes the name too long has none.
                let Some(host) = host else { continue };
                additional.push(self.record(&host, RecordData::of(target.address)));
                found.insert((host, number));
            }
        } else {
            let ports = self.named_ports(meaning);
            let (_, _, number) = ports.iter().find(|(name, of, _)| *name == port && *of == protocol)?;
            additional.extend(addresses.iter().map(|ip| self.record(&owner, RecordData::of(*ip))));
            found.insert((owner, *number));
        }
        if found.is_empty() {
            return None;
        }
        if kind != RecordType::SRV {
            return Answer::nothing();
        }
        let weight = (WEIGHT / found.len()).max(1) as u16;
        let answers = found
            .into_iter()
            .map(|(target, port)| self.record(name, RecordData::Srv { priority: 0, weight, port, target }));
        Answer::found(answers.collect(), additional)
    }

    /// The named ports of a service.
    fn named_ports<'a>(&'a self, meaning: &Meaning<'a>) -> Vec<(&'a str, Protocol, u16)> {
        let all: Vec<_> = match meaning {
            Meaning::Service(service) if service.kind == ServiceType::ExternalName => vec![],
            Meaning::Service(service) => {
                service.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect()
            }
            Meaning::Import(import) => {
                import.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect()
            }
        };
        all.into_iter().filter(|(name, _, _)| !name.is_empty()).collect()
    }

    fn targets<'a>(&'a self, meaning: &Meaning<'a>) -> Vec<Target<'a>> {
        match meaning {
            Meaning::Service(service) => self.targets_of_service(&service.key),
            Meaning::Import(import) => self.targets_of_import(import),
        }
    }

    /// The name of a service that stands outside.
    fn alias(&self, name: &Name, target: Option<&str>, kind: RecordType) -> Option<Answer> {
        // What is no name leads nowhere.
        let Some(target) = target.and_then(|text| text.parse::<Name>().ok()) else {
            return Answer::nothing();
        };
        let record = self.record(name, RecordData::Cname(target.clone()));
        let outcome = if kind == RecordType::CNAME { Outcome::Found } else { Outcome::Alias(target) };
        Some(Answer { answers: vec![record], ..Answer::of(outcome) })
    }

    /// What an address stands for: a service, else an endpoint; names somebody chose before those made of addresses.
    fn reverse(&self, name: &Name, kind: RecordType) -> Answer {
        let Some(address) = name.reverse_address() else { return Answer::of(Outcome::Foreign) };
        if !self.is_complete() {
            return Answer::of(Outcome::NotReady);
        }
        let Some(owners) = self.owners.get(&address) else { return Answer::of(Outcome::Foreign) };
        let [cluster, clusterset] = [&self.settings.cluster_domain, &self.settings.clusterset_domain];
        let under = |domain: &Option<Name>, key: &ServiceKey, prefix: &str| {
            domain.as_ref()?.under(&format!("{prefix}{}.{}.svc", key.name, key.namespace))
        };
        let mut best: [Vec<Name>; 5] = Default::default();
        for owner in owners {
            match owner {
                Owner::Service(key) => best[0].extend(under(cluster, key, "")),
                Owner::Import(key) => best[1].extend(under(clusterset, key, "")),
                Owner::Slice(key) => {
                    let Some(slice) = self.slices.get(key) else { continue };
                    let headless = self.services.get(&slice.service).is_some_and(|service| service.headless);
                    let import = slice
                        .import
                        .as_ref()
                        .map(|name| ServiceKey { namespace: key.namespace.clone(), name: name.clone() });
                    let import = import
                        .filter(|key| self.imports.get(key).is_some_and(|i| i.kind == ExportType::Headless));
                    for target in self.targets_of_slice(slice).filter(|target| target.address == address) {
                        let rank = if target.is_named() { 2 } else { 4 };
                        if self.services.get(&slice.service).is_some() && (target.is_named() || headless) {
                            best[rank].extend(under(
                                cluster,
                                &slice.service,
                                &format!("{}.", target.label()),
                            ));
                        }
                        if let Some(import) = &import {
                            let prefix = format!("{}.{}.", target.label(), target.cluster);
                            best[3].extend(under(clusterset, import, &prefix));
                        }
                    }
                }
            }
        }
        let Some(names) = best.into_iter().find(|names| !names.is_empty()) else {
            return Answer::of(Outcome::Foreign);
        };
        if kind != RecordType::PTR {
            return Answer::of(Outcome::NoData);
        }
        let answers = names.into_iter().map(|target| self.record(name, RecordData::Ptr(target))).collect();
        Answer { answers, ..Answer::of(Outcome::Found) }
    }

    fn apex(&self, domain: &Name, kind: RecordType) -> Option<Answer> {
        match kind {
            RecordType::SOA => Answer::found(vec![self.start_of(domain)], vec![]),
            _ => Answer::nothing(),
        }
    }

    fn version(&self, name: &Name, schema: &str, kind: RecordType) -> Option<Answer> {
        if kind != RecordType::TXT {
            return Answer::nothing();
        }
        Answer::found(vec![self.record(name, RecordData::Txt(schema.to_owned()))], vec![])
    }

    /// The addresses of the type asked for, each once.
    fn addresses(&self, name: &Name, kind: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
        let mut seen = BTreeSet::new();
        let records =
            ips.into_iter().filter(|ip| seen.insert(*ip)).map(|ip| self.record(name, RecordData::of(ip)));
        records.filter(|record| record.data.kind() == kind).collect()
    }

    fn record(&self, name: &Name, data: RecordData) -> Record {
        Record { name: name.clone(), ttl: self.settings.ttl, data }
    }

    fn start_of(&self, domain: &Name) -> Record {
        let under = |label| domain.under(label).unwrap_or_else(|| domain.clone());
        let soa = Soa {
            server: under("ns.dns"),
            contact: under("hostmaster"),
            serial: self.serial,
            times: SECONDARY,
            negative_ttl: self.settings.ttl,
        };
        self.record(domain, RecordData::Soa(soa))
    }
}

fn protocol_of(word: &str) -> Option<Protocol> {
    word.to_ascii_uppercase().parse().ok()
}
