//! Logs on standard error.
//!
//! The levels have meanings, the same in every role:
//!
//! | level | meaning |
//! |---|---|
//! | `TRACE` | one packet, one message |
//! | `DEBUG` | one event went through a stage |
//! | `INFO`  | the state of something changed: connected, synced, endpoint added |
//! | `WARN`  | degraded: we go on with old state or without a part |
//! | `ERROR` | we stop |

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::Error;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it must be `text` or `json`".to_owned()),
        }
    }
}

/// Starts logging for the whole process; a second call changes nothing.
///
/// `filter` is a level or a list such as `info,causeway_mesh=debug`.
///
/// # Errors
/// [`Error::LogFilter`] when the filter does not parse.
pub fn init(filter: &str, format: Format) -> Result<(), Error> {
    let filter = parse(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_ansi(false);
    // A second initialisation happens in tests only; the first one stays in force.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(filter)
        .map_err(|e| Error::LogFilter { filter: filter.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(parse("info,causeway_mesh=debug").is_ok());
        let text = parse("causeway_mesh=loud").unwrap_err().to_string();
        assert!(text.contains("causeway_mesh=loud") && text.contains("example"), "{text}");
    }
}
