//! From a message to its answer: our own at once, those of others later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, trace};

use super::Transport;
use crate::forward::Forwarder;
use crate::wire::{Message, Query, Rcode, RecordType, Refused, Reply};
use crate::zone::{Answer, Outcome, SharedZone};
use crate::{Name, Record, RecordData};

/// How many names an alias may lead through.
const MAX_ALIASES: usize = 8;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Our own names.
    Zone,
    /// Another server.
    Forward,
    /// What another server said lately.
    Cache,
    /// Nobody: the message was refused.
    Refused,
}

/// A message and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// Who asked.
    pub client: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Which of our domains was asked about, if any.
    pub domain: Option<&'a Name>,
    /// What was asked, if that could be read.
    pub question: Option<(&'a Name, RecordType)>,
    /// What became of it.
    pub rcode: Rcode,
    /// Where the answer came from.
    pub source: Source,
    /// Octets of the message and of the answer.
    pub sizes: (usize, usize),
    /// How long it took.
    pub took: Duration,
}

/// Is told what happens.
pub trait Observer: Send + Sync {
    /// A message was answered.
    fn answered(&self, exchange: &Exchange<'_>);
    /// A question was not passed on because too many were under way.
    fn rejected(&self, client: SocketAddr);
}

/// Answers messages.
pub struct Resolver {
    zone: SharedZone,
    forwarder: Option<Arc<Forwarder>>,
    observer: Arc<dyn Observer>,
    /// Turns the order of records.
    turn: AtomicUsize,
}

/// What to do with a message.
pub(super) enum Step {
    /// Nothing.
    Silence,
    /// Send this.
    Reply(Vec<u8>),
    /// Ask others first.
    Ask(Pending),
}

/// A question for others.
pub(super) struct Pending {
    query: Query,
    /// The aliases that lead to what is to be asked, if the question itself is ours.
    aliases: Vec<Record>,
    context: Context,
}

struct Context {
    client: SocketAddr,
    transport: Transport,
    size: usize,
    started: Instant,
}

impl Resolver {
    /// Answers from a zone; what is not in it is asked of others, or refused where there is no forwarder.
    pub fn new(zone: SharedZone, forwarder: Option<Arc<Forwarder>>, observer: Arc<dyn Observer>) -> Self {
        Self { zone, forwarder, observer, turn: AtomicUsize::new(0) }
    }

    pub(super) fn start(&self, message: &[u8], transport: Transport, client: SocketAddr) -> Step {
        let context = Context { client, transport, size: message.len(), started: Instant::now() };
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Refused::Silently) => return Step::Silence,
            Err(Refused::With(rcode, reply)) => {
                self.tell(&context, None, rcode, Source::Refused, reply.len());
                return Step::Reply(reply);
            }
        };
        trace!(%client, name = %query.name, kind = %query.kind, "question");
        let mut answer = self.zone.answer(&query.name, query.kind);
        let mut aliases = vec![];
        while let Outcome::Alias(target) = &answer.outcome {
            let follow =
                [RecordType::A, RecordType::AAAA].contains(&query.kind) && aliases.len() < MAX_ALIASES;
            let target = target.clone();
            aliases.append(&mut answer.answers);
            if !follow {
                return Step::Reply(self.alias_only(&query, aliases, &context));
            }
            answer = self.zone.answer(&target, query.kind);
            if answer.outcome == Outcome::Foreign {
                return match &self.forwarder {
                    Some(_) => Step::Ask(Pending { query, aliases, context }),
                    None => Step::Reply(self.alias_only(&query, aliases, &context)),
                };
            }
        }
        if answer.outcome != Outcome::Foreign {
            return Step::Reply(self.own(&query, aliases, answer, &context));
        }
        let Some(forwarder) = &self.forwarder else {
            return Step::Reply(self.plain(&query, Rcode::REFUSED, Source::Refused, &context));
        };
        if let Some((kept, age)) = forwarder.known(&query) {
            return Step::Reply(self.pass(&query, &kept, age, Source::Cache, &context));
        }
        Step::Ask(Pending { query, aliases, context })
    }

    /// Asks others.
    pub(super) async fn finish(&self, pending: Pending) -> Vec<u8> {
        let Pending { query, aliases, context } = pending;
        let Some(forwarder) = &self.forwarder else {
            return self.plain(&query, Rcode::REFUSED, Source::Refused, &context);
        };
        if !aliases.is_empty() {
            return self.finish_alias(forwarder, &query, aliases, &context).await;
        }
        match forwarder.ask(&query, context.transport).await {
            Ok(message) => self.pass(&query, &message, 0, Source::Forward, &context),
            Err(failure) => {
                debug!(name = %query.name, kind = %query.kind, %failure, "nobody answers");
                self.plain(&query, Rcode::SERVER_FAILURE, Source::Forward, &context)
            }
        }
    }

    /// Too many questions are under way.
    pub(super) fn reject(&self, pending: Pending) -> Vec<u8> {
        self.observer.rejected(pending.context.client);
        self.plain(&pending.query, Rcode::SERVER_FAILURE, Source::Refused, &pending.context)
    }

    /// The addresses of a name that aliases of ours lead to: resolvers of pods do not ask for it themselves.
    async fn finish_alias(
        &self,
        forwarder: &Forwarder,
        query: &Query,
        aliases: Vec<Record>,
        context: &Context,
    ) -> Vec<u8> {
        let target = match aliases.last().map(|record| &record.data) {
            Some(RecordData::Cname(target)) => target.clone(),
            _ => query.name.clone(),
        };
        let question = Query::new(0, target, query.kind);
        let known = forwarder.known(&question);
        let source = if known.is_some() { Source::Cache } else { Source::Forward };
        let asked = match known {
            Some((message, age)) => Ok((message, age)),
            None => match forwarder.ask(&question, Transport::Udp).await {
                Ok(message) if message.truncated() => {
                    forwarder.ask(&question, Transport::Tcp).await.map(|message| (message, 0))
                }
                other => other.map(|message| (message, 0)),
            },
        };
        let (rcode, answers) = match asked {
            Ok((message, age)) if [Rcode::NO_ERROR, Rcode::NX_DOMAIN].contains(&message.rcode()) => {
                (message.rcode(), [aliases, addresses(&message, age, query.kind)].concat())
            }
            Ok(_) => (Rcode::SERVER_FAILURE, vec![]),
            Err(failure) => {
                debug!(name = %question.name, %failure, "nobody answers");
                (Rcode::SERVER_FAILURE, vec![])
            }
        };
        self.send(query, Reply { rcode, answers, ..Default::default() }, source, context)
    }

    fn own(&self, query: &Query, mut aliases: Vec<Record>, answer: Answer, context: &Context) -> Vec<u8> {
        let rcode = match answer.outcome {
            Outcome::NoName => Rcode::NX_DOMAIN,
            Outcome::NotReady => Rcode::SERVER_FAILURE,
            _ => Rcode::NO_ERROR,
        };
        let mut answers = answer.answers;
        // Clients that take the first address spread over all of them.
        if answers.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
            answers.rotate_left(turn);
        }
        aliases.append(&mut answers);
        let reply = Reply {
            rcode,
            authoritative: rcode != Rcode::SERVER_FAILURE,
            answers: aliases,
            authority: answer.authority,
            additional: answer.additional,
        };
        self.send(query, reply, Source::Zone, context)
    }

    fn alias_only(&self, query: &Query, answers: Vec<Record>, context: &Context) -> Vec<u8> {
        self.send(query, Reply { authoritative: true, answers, ..Default::default() }, Source::Zone, context)
    }

    fn plain(&self, query: &Query, rcode: Rcode, source: Source, context: &Context) -> Vec<u8> {
        self.send(query, Reply { rcode, ..Default::default() }, source, context)
    }

    fn send(&self, query: &Query, reply: Reply, source: Source, context: &Context) -> Vec<u8> {
        let bytes = reply.encode(query, self.forwarder.is_some(), context.limit(query));
        self.tell(context, Some(query), reply.rcode, source, bytes.len());
        bytes
    }

    fn pass(&self, query: &Query, message: &Message, age: u32, source: Source, context: &Context) -> Vec<u8> {
        let bytes = message.reply(query, age, context.limit(query));
        self.tell(context, Some(query), message.rcode(), source, bytes.len());
        bytes
    }

    fn tell(&self, context: &Context, query: Option<&Query>, rcode: Rcode, source: Source, size: usize) {
        let tell = |domain: Option<&Name>| {
            self.observer.answered(&Exchange {
                client: context.client,
                transport: context.transport,
                domain,
                question: query.map(|query| (&query.name, query.kind)),
                rcode,
                source,
                sizes: (context.size, size),
                took: context.started.elapsed(),
            });
        };
        let domain = query.and_then(|query| self.zone.look(|zone| zone.domain_of(&query.name).cloned()));
        tell(domain.as_ref());
    }
}

impl Context {
    fn limit(&self, query: &Query) -> usize {
        match self.transport {
            Transport::Udp => query.payload(),
            Transport::Tcp => usize::from(u16::MAX),
        }
    }
}

/// The records that lead to addresses, `age` seconds after they came.
fn addresses(message: &Message, age: u32, kind: RecordType) -> Vec<Record> {
    let [mut answers, ..] = message.sections();
    answers.retain(|record| [RecordType::CNAME, kind].contains(&record.data.kind()));
    answers.iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
    answers
}
