//! The message that carries an alert.

use bytes::Bytes;
use serde::Serialize;

use super::{Alert, Subject, Topic};

/// The formats that receivers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object in the style of Standard Webhooks: `type`, `timestamp`, `data`.
    Json,
    /// The format of Slack's incoming webhooks, which others understand as well: `text`.
    Slack,
}

/// An alert as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The id, which is the same for each attempt.
    pub id: String,
    /// The topic.
    pub topic: Topic,
    /// The body, in JSON.
    pub body: Bytes,
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    topic: &'a str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

#[derive(Serialize)]
struct Slack {
    text: String,
}

impl Message {
    /// Writes an alert. `console` is the URL of the console's host, for links.
    pub fn new(alert: &Alert, id: String, format: Format, console: Option<&str>) -> Self {
        let console = console.map(|url| url.trim_end_matches('/'));
        let url = console.map(|url| format!("{url}{}", alert.topic.page()));
        let body = match format {
            Format::Json => {
                let (mut destination, mut source, mut host) = (None, None, None);
                match &alert.subject {
                    Subject::Destination(name) => destination = Some(name.as_str()),
                    Subject::Source(name) => source = Some(name.as_str()),
                    Subject::Host(name) => host = Some(name.as_str()),
                }
                let data = Data { text: &alert.text, destination, source, host, url };
                let topic = alert.topic.as_str();
                json(&Envelope { topic, timestamp: alert.at.to_string(), data })
            }
            Format::Slack => {
                let link = url.map(|url| format!(" <{url}|Console>")).unwrap_or_default();
                json(&Slack { text: format!("segment-loops: {}{link}", escape(&alert.text)) })
            }
        };
        Self { id, topic: alert.topic, body }
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Strings can always be serialized.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Escapes the characters that Slack requires to be escaped.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written(format: Format, console: Option<&str>) -> Value {
        let alert = Alert {
            topic: Topic::Expired,
            subject: Subject::Destination("default".to_owned()),
            text: "1 < 2 & so on".to_owned(),
            at: "2026-11-01T12:00:00Z".parse().unwrap(),
        };
        let message = Message::new(&alert, "id".to_owned(), format, console);
        serde_json::from_slice(&message.body).unwrap()
    }

    #[test]
    fn each_format_says_what_is_wrong_and_links_to_the_console() {
        let data = json!({
            "text": "1 < 2 & so on", "destination": "default", "url": "https://x.example/console/failures",
        });
        let expected =
            json!({"type": "expired", "timestamp": "2026-11-01T12:00:00Z", "data": data});
        assert_eq!(written(Format::Json, Some("https://x.example/")), expected);
        let data = json!({"text": "1 < 2 & so on", "destination": "default"});
        let expected =
            json!({"type": "expired", "timestamp": "2026-11-01T12:00:00Z", "data": data});
        assert_eq!(written(Format::Json, None), expected);
        let text =
            "segment-loops: 1 &lt; 2 &amp; so on <https://x.example/console/failures|Console>";
        assert_eq!(written(Format::Slack, Some("https://x.example")), json!({"text": text}));
        let text = "segment-loops: 1 &lt; 2 &amp; so on";
        assert_eq!(written(Format::Slack, None), json!({"text": text}));
    }
}
