//! The wire, as far as it depends on no state: what Go sends and takes.

use axum::body::to_bytes;

use super::*;

async fn body(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), BODY_LIMIT).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn call_without_a_body_was_interrupted_and_is_refused_in_both_fields() {
    let handled = |_: OfEndpoint| async { Ok(json!({"must": "not be called"})) };

    let (status, answer) = body(call("Join", Bytes::new(), handled).await).await;

    assert_eq!(status, StatusCode::OK);
    let words = "interrupted call (empty request); retry the operation";
    assert_eq!(answer, json!({"Err": words, "Error": words}));
}

#[tokio::test]
async fn malformed_request_is_no_call() {
    let handled = |_: OfEndpoint| async { Ok(json!({})) };

    let (status, answer) = body(call("Join", Bytes::from_static(b"{"), handled).await).await;

    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["Err"].as_str().unwrap().contains("not what is expected"), "{answer}");
}

#[tokio::test]
async fn unknown_fields_and_nulls_are_taken() {
    let request = br#"{"NetworkID":"a","EndpointID":null,"SandboxKey":"/x","Options":null,"New":{"of":[1]}}"#;
    let handled =
        |request: OfEndpoint| async move { Ok(json!({"key": request.sandbox_key, "id": request.endpoint_id})) };

    let (status, answer) = body(call("Join", Bytes::from_static(request), handled).await).await;

    assert_eq!((status, answer), (StatusCode::OK, json!({"key": "/x", "id": ""})));
}

#[tokio::test]
async fn refusal_is_an_answer_with_status_200() {
    let handled = |_: OfEndpoint| async { Err::<Value, _>(DriverError::UnknownEndpoint("e".to_owned())) };

    let (status, answer) = body(call("Join", Bytes::from_static(b"{}"), handled).await).await;

    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["Err"], answer["Error"]);
}

#[tokio::test(start_paused = true)]
async fn call_that_does_not_end_is_answered_in_time() {
    let handled = |_: OfEndpoint| std::future::pending::<Result<Value, DriverError>>();

    let (status, answer) = body(call("Join", Bytes::from_static(b"{}"), handled).await).await;

    assert_eq!(status, StatusCode::OK);
    assert!(answer["Err"].as_str().unwrap().contains("no answer within 9 s"), "{answer}");
}

#[test]
fn socket_is_closed_to_others_and_alone_in_its_directory() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let plugins = directory.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();

    let _listener = bind(&plugins).unwrap();
    let _again = bind(&plugins).unwrap();

    let names: Vec<_> = std::fs::read_dir(&plugins).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [PLUGIN]);
    let mode = std::fs::metadata(plugins.join(PLUGIN)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn joined_interface_is_named_and_absent_when_it_is_there_already() {
    let named = super::super::messages::InterfaceName { src_name: "wc-6fa799c92a00".to_owned(), dst_prefix: "eth" };
    let answer = super::super::messages::Joined { interface_name: Some(named) };

    let text = serde_json::to_value(&answer).unwrap();

    assert_eq!(text, json!({"InterfaceName": {"SrcName": "wc-6fa799c92a00", "DstPrefix": "eth"}}));
    assert_eq!(serde_json::to_value(super::super::messages::Joined::default()).unwrap(), json!({}));
}
