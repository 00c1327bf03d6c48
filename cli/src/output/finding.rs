//! What `weft doctor` found.

use serde::{Deserialize, Serialize};

use super::{Page, printable};

/// What one check of `weft doctor` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// What was checked.
    pub(crate) check: String,
    /// How it stands.
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) detail: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

/// How a check stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// The agent will run, but not as well as it could.
    Warning,
    /// The agent will not run.
    Failure,
}

impl Page for Vec<Finding> {
    fn page(&self) -> String {
        self.iter().map(finding_lines).collect()
    }
}

fn finding_lines(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Failure => "FAILURE",
    };
    let remedy = finding.remedy.iter().map(|remedy| format!("{:9}remedy: {}\n", "", printable(remedy)));
    let first = format!("{verdict:9}{}: {}\n", printable(&finding.check), printable(&finding.detail));
    std::iter::once(first).chain(remedy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_stands_on_a_line_with_its_remedy_below() {
        let findings = vec![
            finding("privileges", Verdict::Ok, "runs as root", None),
            finding("br_netfilter", Verdict::Warning, "is loaded", Some("nothing: the data plane is apart from it")),
            finding("port", Verdict::Failure, "UDP 4789 is in use", Some("choose another with --vxlan-port")),
        ];

        assert_eq!(
            findings.page(),
            "ok       privileges: runs as root\n\
             warning  br_netfilter: is loaded\n         remedy: nothing: the data plane is apart from it\n\
             FAILURE  port: UDP 4789 is in use\n         remedy: choose another with --vxlan-port\n"
        );
    }

    #[test]
    fn findings_have_stable_names_in_json() {
        let json = serde_json::to_string(&finding("etcd", Verdict::Failure, "refuses", None)).unwrap();

        assert_eq!(json, r#"{"check":"etcd","verdict":"failure","detail":"refuses","remedy":null}"#);
    }

    fn finding(check: &str, verdict: Verdict, detail: &str, remedy: Option<&str>) -> Finding {
        Finding { check: check.to_owned(), verdict, detail: detail.to_owned(), remedy: remedy.map(str::to_owned) }
    }
}
