//! The settings that decide which traces are recorded, if any.

/// The environment variables of OpenTelemetry that this program reads itself. The exporter reads the others: headers,
/// timeouts, compression, the attributes of the resource, the limits of spans and batches.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// The URL to which spans are posted; `None`: there are no traces.
    pub endpoint: Option<String>,
    /// Which traces are recorded.
    pub sampling: Sampling,
    /// Problems with the variables, for people. A variable with a problem is ignored.
    pub problems: Vec<String>,
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The share of traces that begin here.
    pub root: Root,
    /// Whether a trace that a sender began is recorded exactly if the sender records it.
    pub follows_parent: bool,
}

/// The share of the traces that begin here that is recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Root {
    /// All.
    All,
    /// None.
    None,
    /// This part of them, from 0 to 1.
    Part(f64),
}

impl Default for Sampling {
    /// Records all traces that begin here, and the traces of senders that they record themselves.
    fn default() -> Self {
        Self { root: Root::All, follows_parent: true }
    }
}

impl Sampling {
    /// The names of the samplers, for people.
    pub const NAMES: &str = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio";

    /// Returns the sampler with a name, and with an argument if it takes one. The error says what is allowed.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (root, follows_parent) = match name.strip_prefix("parentbased_") {
            Some(root) => (root, true),
            None => (name, false),
        };
        let root = match root {
            "always_on" => Root::All,
            "always_off" => Root::None,
            "traceidratio" => Root::Part(match argument {
                None => 1.0,
                Some(argument) => ratio(argument).ok_or_else(|| {
                    format!("OTEL_TRACES_SAMPLER_ARG is `{argument}`: use a number from 0 to 1")
                })?,
            }),
            _ => {
                let names = Self::NAMES;
                return Err(format!("OTEL_TRACES_SAMPLER is `{name}`: allowed are {names}"));
            }
        };
        Ok(Self { root, follows_parent })
    }
}

fn ratio(text: &str) -> Option<f64> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_have_the_names_of_the_specification() {
        let cases = [
            ("always_on", None, Root::All, false),
            ("parentbased_always_on", None, Root::All, true),
            ("always_off", Some("0.5"), Root::None, false),
            ("parentbased_always_off", None, Root::None, true),
            ("traceidratio", Some("0.25"), Root::Part(0.25), false),
            ("parentbased_traceidratio", None, Root::Part(1.0), true),
        ];
        for (name, argument, root, follows_parent) in cases {
            assert_eq!(Sampling::parse(name, argument), Ok(Sampling { root, follows_parent }));
        }
        for (name, argument) in [
            ("jaeger_remote", None),
            ("", None),
            ("traceidratio", Some("2")),
            ("traceidratio", Some("x")),
        ] {
            let error = Sampling::parse(name, argument).unwrap_err();
            assert!(error.contains("allowed are") || error.contains("from 0 to 1"), "{error}");
        }
    }
}
