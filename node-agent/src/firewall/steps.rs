//! Steps about elements as writes to sets, and how their failures are told. Pure.

use std::{collections::BTreeMap, io};

use ipnetwork::IpNetwork;
use weft_overlay::kernel::{Element, NodeObject, Object, ObjectId, Step, StepError, Table};

use super::{
    netlink::{Change, Write},
    sets::members,
};

pub(super) fn is_table(step: &Step, table: Table) -> bool {
    matches!(step.id(), ObjectId::Node(NodeObject::Table(of)) if *of == table)
}

pub(super) fn is_element(step: &Step, table: Table) -> bool {
    matches!(step.id(), ObjectId::Node(NodeObject::Element(element)) if element.table() == table)
}

pub(super) fn not_ours(step: &Step) -> Result<(), StepError> {
    match step.id() {
        ObjectId::Node(NodeObject::Table(_) | NodeObject::Element(_) | NodeObject::ForeignAccepts) => Ok(()),
        _ => Err(refused(step, io::ErrorKind::Unsupported.into())),
    }
}

/// What an element's step writes.
pub(super) fn element_writes(step: &Step) -> Vec<Write> {
    let ObjectId::Node(NodeObject::Element(element)) = step.id() else { return Vec::new() };
    match step {
        Step::Create(_, object) => writes(Change::Add, element, object),
        Step::Delete(_, object) => removals(element, object),
        Step::Replace { observed, desired, .. } => {
            // Only a published port is more than its name; of other elements, what is missing is added.
            let is_published = matches!(element, Element::Published(..));
            let mut all = if is_published && observed != desired { removals(element, observed) } else { Vec::new() };
            all.append(&mut writes(Change::Add, element, desired));
            all
        }
    }
}

/// A published port is removed by its key, whatever it leads to.
fn removals(element: &Element, observed: &Object) -> Vec<Write> {
    match element {
        Element::Published(_, host, _) => writes(Change::Remove, element, &Object::Published(*host, 0)),
        _ => writes(Change::Remove, element, observed),
    }
}

pub(super) fn writes(change: Change, element: &Element, object: &Object) -> Vec<Write> {
    let members = members(element, object).unwrap_or_default();
    let raw = members.iter().flat_map(|member| member.raw().into_iter().map(move |raw| (member.set.name(), raw)));
    raw.map(|(set, element)| Write { change, set, element }).collect()
}

/// Why an element cannot be put beside those that are known, if it cannot.
pub(super) fn check_element(known: &BTreeMap<Element, Object>, step: &Step) -> Result<(), StepError> {
    let (ObjectId::Node(NodeObject::Element(element)), Some(object)) = (step.id(), step.result()) else {
        return Ok(());
    };
    let invalid =
        |hint| StepError { action: action(step), hint: Some(hint), cause: io::ErrorKind::InvalidInput.into() };
    if members(element, object).is_none() {
        return Err(invalid(
            "no set can hold it: addresses of two families, or an interface name with special characters",
        ));
    }
    // Known subnets of one set are apart from each other, so only the nearest ones can overlap.
    let nearest = [known.range(..element).next_back(), known.range(element..).find(|(other, _)| *other != element)];
    if nearest.into_iter().flatten().any(|(other, _)| overlaps(element, other)) {
        return Err(invalid("it overlaps the subnet of another network: remove one of the two"));
    }
    Ok(())
}

fn overlaps(one: &Element, other: &Element) -> bool {
    let meet = |a: &IpNetwork, b: &IpNetwork| a.contains(b.ip()) || b.contains(a.ip());
    match (one, other) {
        (Element::OverlaySubnet(a), Element::OverlaySubnet(b))
        | (Element::MasqueradedSubnet(a), Element::MasqueradedSubnet(b)) => meet(a, b),
        _ => false,
    }
}

pub(super) fn refused(step: &Step, cause: io::Error) -> StepError {
    StepError { action: action(step), hint: hint(&cause), cause }
}

fn action(step: &Step) -> String {
    match step {
        Step::Create(id, _) => format!("creating {id}"),
        Step::Replace { id, .. } => format!("replacing {id}"),
        Step::Delete(id, _) => format!("deleting {id}"),
    }
}

fn hint(cause: &io::Error) -> Option<&'static str> {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => Some("CAP_NET_ADMIN is missing"),
        io::ErrorKind::NotFound if cause.raw_os_error().is_none() => Some("install the package nftables"),
        io::ErrorKind::NotFound => Some("the table is missing; it is made again in the next pass"),
        io::ErrorKind::Unsupported => Some("this is not the firewall's"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_that_overlaps_a_known_one_is_refused() {
        let subnet = |text: &str| Element::OverlaySubnet(text.parse().unwrap());
        let known: BTreeMap<Element, Object> = ["10.0.0.0/16", "10.2.0.0/16", "fd00::/64"]
            .map(|text| (subnet(text), Object::Present))
            .into_iter()
            .collect();
        let accepted = |element: Element| {
            check_element(&known, &Step::Create(ObjectId::Node(NodeObject::Element(element)), Object::Present)).is_ok()
        };

        for refused in ["10.0.0.0/15", "10.0.0.0/17", "10.0.255.0/24", "10.2.4.0/24", "10.0.0.0/8", "fd00::/48"] {
            assert!(!accepted(subnet(refused)), "{refused} was accepted");
        }
        for clear in ["10.1.0.0/16", "10.0.0.0/16", "10.3.0.0/16", "9.0.0.0/8", "fd01::/64"] {
            assert!(accepted(subnet(clear)), "{clear} was refused");
        }
        assert!(accepted(Element::MasqueradedSubnet("10.0.0.0/17".parse().unwrap())));
    }

    #[test]
    fn a_published_port_that_leads_elsewhere_is_removed_before_it_is_added() {
        let element = Element::Published(weft_overlay::model::Protocol::Tcp, std::net::IpAddr::from([0; 4]), 80);
        let to = |text: &str| Object::Published(text.parse().unwrap(), 80);
        let replace = |observed| Step::Replace {
            id: ObjectId::Node(NodeObject::Element(element.clone())),
            observed,
            desired: to("10.0.0.1"),
        };
        let plan = |step: &Step| -> Vec<(Change, &'static str)> {
            element_writes(step).iter().map(|write| (write.change, write.set)).collect()
        };

        for observed in [to("10.0.0.2"), Object::Deviant("leads to two endpoints".to_owned())] {
            assert_eq!(plan(&replace(observed)), [(Change::Remove, "published4"), (Change::Add, "published4")]);
        }
    }
}
