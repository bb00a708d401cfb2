//! What the settings of the store mean.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_daemon::config::Config;
use causeway_daemon::duration::GoDuration;
use causeway_kvstore::{AutoCompaction, StoreOptions};

/// A request beyond this makes etcd warn.
const LARGE_REQUEST: usize = 10 << 20;
/// Bounds of a request: a transaction of the publisher with one service, and what gRPC can carry.
const REQUEST: std::ops::RangeInclusive<usize> = (64 << 10)..=(1 << 30);

/// The store as the settings want it.
///
/// # Errors
/// A value that means nothing; the text names the setting and what is accepted.
pub(crate) fn store_options(config: &Config) -> Result<StoreOptions> {
    let default = StoreOptions::default();
    let quota: i64 = config.require("quota-backend-bytes")?;
    let max_request_bytes: usize = config.require("max-request-bytes")?;
    ensure!(
        REQUEST.contains(&max_request_bytes),
        "max-request-bytes {max_request_bytes} is not between {} and {}; etcd's own default is {}",
        REQUEST.start(),
        REQUEST.end(),
        default.max_request_bytes
    );
    if max_request_bytes > LARGE_REQUEST {
        tracing::warn!(
            max_request_bytes,
            "max-request-bytes is above 10 MiB: one request may delay all others"
        );
    }
    let text = |name| config.text(name).unwrap_or_default();
    let auto_compaction = auto_compaction(text("auto-compaction-mode"), text("auto-compaction-retention"))?;
    let history_revisions = match auto_compaction {
        // At its bound the store drops the older half.
        AutoCompaction::Revision(keep) => {
            default.history_revisions.max(usize::try_from(keep)?.saturating_mul(2))
        }
        _ => default.history_revisions,
    };
    Ok(StoreOptions {
        history_revisions,
        max_request_bytes,
        quota_backend_bytes: if quota == 0 { default.quota_backend_bytes } else { quota },
        auto_compaction,
        ..default
    })
}

fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction> {
    let parsed = match (mode, retention.parse::<GoDuration>()) {
        // Any duration of Go's; a number alone is hours, and none.
        ("periodic", Ok(GoDuration(period))) if !period.is_zero() => Ok(AutoCompaction::Periodic(period)),
        _ => AutoCompaction::parse(mode, retention),
    };
    let parsed = parsed.with_context(|| {
        format!(
            "auto-compaction-mode {mode:?} with auto-compaction-retention {retention:?} (give periodic with hours like \
             1 or a duration like 30m, or revision with a number of revisions; 0 turns it off)"
        )
    })?;
    ensure!(
        !matches!(parsed, AutoCompaction::Periodic(period) if period < Duration::from_secs(1)),
        "auto-compaction-retention {retention} is less than a second; give a duration like 30m, or 0 to turn it off"
    );
    Ok(parsed)
}

/// Where clients reach a server of ours: URLs separated by commas.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClientUrls(pub(super) Vec<String>);

impl FromStr for ClientUrls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|url| client_url(url.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn client_url(text: &str) -> Result<String, String> {
    let fix = "give URLs like https://172.16.1.7:2379, separated by commas";
    let url: hyper::Uri = text.parse().map_err(|error| format!("{text:?}: {error}; {fix}"))?;
    let wrong = match (url.scheme_str(), url.host(), url.port_u16()) {
        (Some("http"), ..) => "the store is served over TLS only",
        (Some("https"), Some(_), Some(_)) if matches!(url.path(), "" | "/") && url.query().is_none() => {
            return Ok(text.trim_end_matches('/').to_owned());
        }
        (Some("https"), Some(_), None) => "the port is missing",
        (Some("https"), Some(_), Some(_)) => "a path means nothing here",
        _ => "this is not a URL of a server",
    };
    Err(format!("{text:?}: {wrong}; {fix}"))
}

#[cfg(test)]
mod tests {
    use causeway_daemon::config::Loader;

    use super::*;
    use crate::serving::KEYS;

    fn options(settings: &[(&str, &str)]) -> Result<StoreOptions, String> {
        let loader =
            settings.iter().fold(Loader::new(&KEYS), |loader, (name, value)| loader.flag(name, Some(value)));
        store_options(&loader.load()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn without_settings_the_store_is_etcds() {
        let (found, wanted) = (options(&[]).unwrap(), StoreOptions::default());
        assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
    }

    #[test]
    fn quota_and_requests_have_etcds_meaning() {
        let quota = |value| options(&[("quota-backend-bytes", value)]).map(|o| o.quota_backend_bytes);
        assert_eq!((quota("0"), quota("1000000"), quota("-1")), (Ok(2 << 30), Ok(1_000_000), Ok(-1)));
        let request = |value| options(&[("max-request-bytes", value)]).map(|o| o.max_request_bytes);
        assert_eq!(request("4194304"), Ok(4 << 20));
        for (name, value) in [
            ("quota-backend-bytes", "2Gi"),
            ("max-request-bytes", "0"),
            ("max-request-bytes", "-1"),
            ("max-request-bytes", "2000000000"),
        ] {
            let error = options(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn history_is_kept_by_time_or_by_number() {
        let of = |mode, retention| {
            let settings = [("auto-compaction-mode", mode), ("auto-compaction-retention", retention)];
            options(&settings).map(|o| (o.auto_compaction, o.history_revisions))
        };
        let periodic = |seconds| Ok((AutoCompaction::Periodic(Duration::from_secs(seconds)), 100_000));
        assert_eq!(of("periodic", "1"), periodic(3600));
        assert_eq!(of("periodic", "30m"), periodic(1800));
        assert_eq!(of("periodic", "1.5h"), periodic(5400));
        for off in ["0", "0s"] {
            assert_eq!(of("periodic", off), Ok((AutoCompaction::Off, 100_000)));
        }
        assert_eq!(of("revision", "1000"), Ok((AutoCompaction::Revision(1000), 100_000)));
        assert_eq!(
            of("revision", "80000"),
            Ok((AutoCompaction::Revision(80_000), 160_000)),
            "all of it is kept"
        );
        for (mode, retention) in
            [("periodic", "often"), ("revision", "1h"), ("weekly", "1"), ("periodic", "1ms")]
        {
            let error = of(mode, retention).unwrap_err();
            assert!(error.contains("auto-compaction-retention") && error.contains(retention), "{error}");
            assert!(error.contains("30m"), "the fix: {error}");
        }
    }

    #[test]
    fn advertised_urls_are_those_of_servers() {
        let urls = |text: &str| text.parse::<ClientUrls>().map(|urls| urls.0);
        assert_eq!(
            urls("https://172.16.1.7:2379, https://[fd00::7]:2379/"),
            Ok(vec!["https://172.16.1.7:2379".to_owned(), "https://[fd00::7]:2379".to_owned()])
        );
        for (text, says) in [
            ("http://172.16.1.7:2379", "TLS only"),
            ("https://172.16.1.7", "the port is missing"),
            ("172.16.1.7:2379", "not a URL"),
            ("https://a:2379/path", "a path"),
            ("https://a:2379,", "separated by commas"),
            ("https://a b:2379", "separated by commas"),
        ] {
            let error = urls(text).unwrap_err();
            assert!(error.contains(says) && error.contains("https://172.16.1.7:2379"), "{error}");
        }
        let config = Loader::new(&KEYS).flag("advertise-client-urls", Some("x")).load();
        let error = config.get::<ClientUrls>("advertise-client-urls").unwrap_err().to_string();
        assert!(error.contains("advertise-client-urls") && error.contains("command line"), "{error}");
    }
}
