//! Selectors of labels, as Kubernetes writes them.

use crate::Error;

/// What labels must be: all of its requirements hold. Without any it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(pub Vec<Requirement>);

/// What one label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What is required of it.
    pub operator: Operator,
}

/// What is required of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// It is there, with one of these values.
    In(Vec<String>),
    /// It has none of these values; it need not be there.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
    /// It is a number larger than this.
    Greater(i64),
    /// It is a number smaller than this.
    Less(i64),
}

impl LabelSelector {
    /// Reads Kubernetes' text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// [`Error::Selector`] with the part that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parts =
            split_outside_parentheses(text).into_iter().map(str::trim).filter(|part| !part.is_empty());
        parts.map(requirement).collect::<Result<_, _>>().map(Self)
    }

    /// Whether labels match; `get` finds one by its key.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = get(key);
            let number = || value.and_then(|v| v.parse::<i64>().ok());
            match operator {
                Operator::In(values) => value.is_some_and(|v| values.iter().any(|wanted| wanted == v)),
                Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|refused| refused != v)),
                Operator::Exists => value.is_some(),
                Operator::Absent => value.is_none(),
                Operator::Greater(limit) => number().is_some_and(|v| v > *limit),
                Operator::Less(limit) => number().is_some_and(|v| v < *limit),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0i32, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn requirement(part: &str) -> Result<Requirement, Error> {
    let bad = || Error::Selector(part.to_owned());
    let of = |key: &str, operator| {
        let key = key.trim();
        let fine = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if fine { Ok(Requirement { key: key.to_owned(), operator }) } else { Err(bad()) }
    };
    let values = |text: &str| {
        let values: Vec<String> = text.split(',').map(|value| value.trim().to_owned()).collect();
        let legal = |v: &String| v.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if values.iter().all(legal) { Ok(values) } else { Err(bad()) }
    };
    if let Some(rest) = part.strip_prefix('!') {
        return of(rest, Operator::Absent);
    }
    if let Some((words, inner)) = part.split_once('(') {
        let values = values(inner.strip_suffix(')').ok_or_else(bad)?)?;
        let words: Vec<&str> = words.split_whitespace().collect();
        return match words.as_slice() {
            [key, "in"] => of(key, Operator::In(values)),
            [key, "notin"] => of(key, Operator::NotIn(values)),
            _ => Err(bad()),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return of(key, Operator::NotIn(values(value)?));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return of(key, Operator::In(values(value)?));
    }
    if let Some((key, limit)) = part.split_once('>') {
        return of(key, Operator::Greater(limit.trim().parse().map_err(|_| bad())?));
    }
    if let Some((key, limit)) = part.split_once('<') {
        return of(key, Operator::Less(limit.trim().parse().map_err(|_| bad())?));
    }
    of(part, Operator::Exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_hold_or_not() {
        let labels = [("zone", "a"), ("example.com/edge", ""), ("cpus", "8")];
        let get = |key: &str| labels.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
        for (text, holds) in [
            ("", true),
            ("zone=a", true),
            ("zone == a", true),
            ("zone=b", false),
            ("zone!=b,example.com/edge", true),
            ("zone != a", false),
            ("missing!=a", true),
            ("zone in ( a , b )", true),
            ("zone in (b,c)", false),
            ("zone notin (b,c), cpus>4", true),
            ("missing notin (a)", true),
            ("!missing", true),
            ("!zone", false),
            ("missing", false),
            ("cpus>8", false),
            ("cpus<9", true),
            ("zone>1", false),
            ("example.com/edge=", true),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(get), holds, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_selector_is_named() {
        for text in ["a b", "=x", "a=b c", "a in b", "a in (b", "a on (b)", "!", "a>b", "a=b=c", "a in (b/c)"]
        {
            let part = format!("ok=1,{text}");
            assert_eq!(LabelSelector::parse(&part), Err(Error::Selector(text.to_owned())), "{text:?}");
        }
    }
}
