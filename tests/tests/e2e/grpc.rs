//! A function that speaks HTTP/2 and nothing else, asked by a gRPC client and by others.

use std::path::Path;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use hyper::{Method, StatusCode};
use roost_tests::{Config, Host, Image, PATIENCE, Plain};
use serde_json::json;
use tokio::time::timeout;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request};

const ONCE: &str = "/test.Echo/Once";
const CHAT: &str = "/test.Echo/Chat";
const DOMAIN: &str = "grpc.h.example";

/// A client of what is at this origin of the host.
async fn client(host: &Host, origin: &str) -> tonic::client::Grpc<Channel> {
    let origin = Uri::try_from(origin).unwrap();
    let channel = Channel::from_shared(host.url()).unwrap().origin(origin.clone()).timeout(PATIENCE);
    tonic::client::Grpc::with_origin(channel.connect().await.unwrap(), origin)
}

/// One message there and one back.
async fn once(
    grpc: &mut tonic::client::Grpc<Channel>,
    message: &'static str,
) -> Result<Bytes, tonic::Status> {
    grpc.ready().await.unwrap();
    let request = Request::new(Bytes::from_static(message.as_bytes()));
    Ok(grpc.unary(request, PathAndQuery::from_static(ONCE), Plain).await?.into_inner())
}

#[tokio::test]
async fn a_grpc_function_is_ready_answers_from_zero_and_says_its_own_status() {
    let host = Host::start_with(Config::default()).await;
    let function = Image::of_program(Path::new(env!("CARGO_BIN_EXE_grpc-function")));
    host.import(&function, "grpc:1").await;
    let annotations = json!({ "roost.protocol": "h2c", "roost.domain": DOMAIN });
    host.deployed(&json!({ "service": "grpc", "image": "grpc:1", "annotations": annotations })).await;

    for origin in [format!("http://{DOMAIN}"), format!("{}/function/grpc", host.url())] {
        let mut grpc = client(&host, &origin).await;
        assert_eq!(once(&mut grpc, "hello").await.unwrap(), "hello");
        let error = once(&mut grpc, "fail").await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "as it was asked to"));

        // Each message is answered before the next is sent.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        grpc.ready().await.unwrap();
        let chat = Request::new(ReceiverStream::new(receiver));
        let chat = grpc.streaming(chat, PathAndQuery::from_static(CHAT), Plain).await.unwrap();
        let mut answers = chat.into_inner();
        for message in ["one", "two", "three"] {
            sender.send(Bytes::from(message)).await.unwrap();
            assert_eq!(timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap(), message);
        }
        sender.send(Bytes::from("fail")).await.unwrap();
        assert_eq!(timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err().code(), Code::Aborted);
    }

    // A call brings it back from zero, over HTTP/2 as before.
    host.scale("grpc", 0).await;
    host.idle("grpc").await;
    let mut grpc = client(&host, &format!("http://{DOMAIN}")).await;
    assert_eq!(once(&mut grpc, "from zero").await.unwrap(), "from zero");

    // Who speaks HTTP/1.1 is answered, too: with what there is beside the trailers.
    let request = host.api.request(&Method::POST, "/function/grpc/test.Echo/Other");
    let request = request.header("content-type", "application/grpc").body(roost_tests::body_of("")).unwrap();
    let answer = host.api.try_send(request).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (StatusCode::OK, "12"));
}
