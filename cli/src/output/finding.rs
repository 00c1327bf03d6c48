//! What `weft doctor` found.

pub(crate) use weft_node_agent::doctor::{Finding, Verdict};

use super::{Page, printable};

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
