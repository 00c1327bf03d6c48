//! Operations on a store as values, and what came of them as text that can be compared exactly.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    proto::{PbResponseHeader, PbTxnOpResponse, PbTxnResponse},
};

#[derive(Debug, Clone)]
pub(crate) struct Get {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) limit: i64,
    pub(crate) revision: i64,
    pub(crate) sort: Option<(u8, bool)>,
    pub(crate) keys_only: bool,
    pub(crate) count_only: bool,
    pub(crate) bounds: [i64; 4],
}

#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) lease: i64,
    pub(crate) prev_kv: bool,
    pub(crate) ignore_value: bool,
    pub(crate) ignore_lease: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Delete {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) prev_kv: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Value(Vec<u8>),
    Version(i64),
    Create(i64),
    Mod(i64),
    Lease(i64),
}

#[derive(Debug, Clone)]
pub(crate) struct Condition {
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) how: u8,
    pub(crate) operand: Operand,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Transaction {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) then: Vec<Operation>,
    pub(crate) or_else: Vec<Operation>,
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Get(Get),
    Put(Put),
    Delete(Delete),
    Txn(Transaction),
    Compact(i64),
    Grant(i64, i64),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(i64),
    Leases,
    HashKv(i64),
}

/// Carries an operation out; the answer without what names the server, or the error with its code.
pub(crate) async fn carry_out(client: &mut Client, operation: &Operation) -> String {
    match answer(client, operation).await {
        Ok(answer) => answer,
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(error) => format!("{error:?}"),
    }
}

async fn answer(client: &mut Client, operation: &Operation) -> Result<String, Error> {
    Ok(match operation {
        Operation::Get(get) => {
            let mut got = client.get(get.key.clone(), Some(get_options(get))).await?.0;
            anonymous(&mut got.header);
            format!("{got:?}")
        }
        Operation::Put(put) => {
            let mut done = client.put(put.key.clone(), put.value.clone(), Some(put_options(put))).await?.0;
            anonymous(&mut done.header);
            format!("{done:?}")
        }
        Operation::Delete(delete) => {
            let mut done = client.delete(delete.key.clone(), Some(delete_options(delete))).await?.0;
            anonymous(&mut done.header);
            format!("{done:?}")
        }
        Operation::Txn(transaction) => {
            let mut done = client.txn(txn(transaction)).await?.0;
            anonymous_txn(&mut done);
            format!("{done:?}")
        }
        Operation::Compact(revision) => {
            let mut done = client.compact(*revision, None).await?.0;
            anonymous(&mut done.header);
            format!("{done:?}")
        }
        Operation::Grant(id, ttl) => {
            let options = LeaseGrantOptions::new().with_id(*id);
            let mut done = client.lease_grant(*ttl, Some(options)).await?.0;
            anonymous(&mut done.header);
            format!("{done:?}")
        }
        Operation::Revoke(id) => {
            let mut done = client.lease_revoke(*id).await?.0;
            anonymous(&mut done.header);
            format!("{done:?}")
        }
        _ => other_answer(client, operation).await?,
    })
}

async fn other_answer(client: &mut Client, operation: &Operation) -> Result<String, Error> {
    Ok(match operation {
        Operation::KeepAlive(id) => match client.lease_keep_alive(*id).await {
            Ok((mut keeper, mut stream)) => {
                keeper.keep_alive().await?;
                let kept = stream.message().await?;
                format!("{:?}", kept.map(|kept| (kept.id(), kept.ttl(), kept.0.header.map(|header| header.revision))))
            }
            Err(Error::LeaseKeepAliveError(text)) => text,
            Err(error) => return Err(error),
        },
        Operation::TimeToLive(id) => {
            let options = LeaseTimeToLiveOptions::new().with_keys();
            let mut told = client.lease_time_to_live(*id, Some(options)).await?.0;
            anonymous(&mut told.header);
            // Time passes, and keys come in any order.
            told.ttl = told.ttl.signum();
            told.keys.sort();
            format!("{told:?}")
        }
        Operation::Leases => {
            let told = client.leases().await?.0;
            let mut ids: Vec<i64> = told.leases.iter().map(|lease| lease.id).collect();
            ids.sort_unstable();
            format!("{ids:?}")
        }
        Operation::HashKv(revision) => {
            let told = client.hash_kv(*revision).await?.0;
            format!("{} {}", told.hash, told.compact_revision)
        }
        _ => unreachable!("the others are answered elsewhere"),
    })
}

fn anonymous(header: &mut Option<PbResponseHeader>) {
    if let Some(header) = header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}

fn anonymous_txn(txn: &mut PbTxnResponse) {
    anonymous(&mut txn.header);
    for response in &mut txn.responses {
        if let Some(PbTxnOpResponse::ResponseTxn(nested)) = &mut response.response {
            anonymous_txn(nested);
        }
    }
}

fn get_options(get: &Get) -> GetOptions {
    let [min_mod, max_mod, min_create, max_create] = get.bounds;
    let mut options = GetOptions::new()
        .with_limit(get.limit)
        .with_revision(get.revision)
        .with_min_mod_revision(min_mod)
        .with_max_mod_revision(max_mod)
        .with_min_create_revision(min_create)
        .with_max_create_revision(max_create);
    if !get.end.is_empty() {
        options = options.with_range(get.end.clone());
    }
    if let Some((target, descending)) = get.sort {
        let target = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value]
            [usize::from(target)];
        options = options.with_sort(target, if descending { SortOrder::Descend } else { SortOrder::Ascend });
    }
    if get.keys_only {
        options = options.with_keys_only();
    }
    if get.count_only {
        options = options.with_count_only();
    }
    options
}

fn put_options(put: &Put) -> PutOptions {
    let mut options = PutOptions::new().with_lease(put.lease);
    if put.prev_kv {
        options = options.with_prev_key();
    }
    if put.ignore_value {
        options = options.with_ignore_value();
    }
    if put.ignore_lease {
        options = options.with_ignore_lease();
    }
    options
}

fn delete_options(delete: &Delete) -> DeleteOptions {
    let mut options = DeleteOptions::new();
    if !delete.end.is_empty() {
        options = options.with_range(delete.end.clone());
    }
    if delete.prev_kv {
        options = options.with_prev_key();
    }
    options
}

fn txn(transaction: &Transaction) -> Txn {
    let operations = |list: &[Operation]| list.iter().map(txn_operation).collect::<Vec<_>>();
    Txn::new()
        .when(transaction.conditions.iter().map(compare).collect::<Vec<_>>())
        .and_then(operations(&transaction.then))
        .or_else(operations(&transaction.or_else))
}

fn txn_operation(operation: &Operation) -> TxnOp {
    match operation {
        Operation::Get(get) => TxnOp::get(get.key.clone(), Some(get_options(get))),
        Operation::Put(put) => TxnOp::put(put.key.clone(), put.value.clone(), Some(put_options(put))),
        Operation::Delete(delete) => TxnOp::delete(delete.key.clone(), Some(delete_options(delete))),
        Operation::Txn(nested) => TxnOp::txn(txn(nested)),
        other => unreachable!("{other:?} is no part of a transaction"),
    }
}

fn compare(condition: &Condition) -> Compare {
    let how = [CompareOp::Equal, CompareOp::Greater, CompareOp::Less, CompareOp::NotEqual][usize::from(condition.how)];
    let key = condition.key.clone();
    let compare = match &condition.operand {
        Operand::Value(value) => Compare::value(key, how, value.clone()),
        Operand::Version(version) => Compare::version(key, how, *version),
        Operand::Create(revision) => Compare::create_revision(key, how, *revision),
        Operand::Mod(revision) => Compare::mod_revision(key, how, *revision),
        Operand::Lease(lease) => Compare::lease(key, how, *lease),
    };
    if condition.end.is_empty() { compare } else { compare.with_range(condition.end.clone()) }
}
