//! A function of tests that speaks gRPC, and so HTTP/2 by prior knowledge and nothing else.
//!
//! `/test.Echo/Once` says what it was told and fails when it is told to; `/test.Echo/Chat` answers message by message.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::convert::Infallible;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use roost_tests::Plain;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::codegen::tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};

type Messages = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

#[derive(Clone, Copy)]
struct Echo;

impl tonic::server::UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let message = request.into_inner();
        std::future::ready(match message.as_ref() {
            b"fail" => Err(Status::failed_precondition("as it was asked to")),
            _ => Ok(Response::new(message)),
        })
    }
}

impl tonic::server::StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = std::future::Ready<Result<Response<Messages>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let echoed = request.into_inner().map(|message| match message {
            Ok(message) if message == "fail" => Err(Status::aborted("enough")),
            message => message,
        });
        std::future::ready(Ok(Response::new(Box::pin(echoed))))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // For the first process of a container nothing ends it but this.
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let listener = TcpListener::bind("0.0.0.0:8080").await.unwrap();
    tokio::select! {
        () = serve(listener) => {}
        _ = terminate.recv() => {}
    }
}

async fn serve(listener: TcpListener) {
    loop {
        let stream = listener.accept().await.unwrap().0;
        let service = service_fn(|request: Request<Incoming>| async {
            let mut grpc = tonic::server::Grpc::new(Plain);
            Ok::<_, Infallible>(match request.uri().path() {
                "/test.Echo/Once" => grpc.unary(Echo, request).await,
                "/test.Echo/Chat" => grpc.streaming(Echo, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        });
        // One that knows no HTTP/2 is none that this serves.
        let http = http2::Builder::new(TokioExecutor::new());
        drop(tokio::spawn(http.serve_connection(TokioIo::new(stream), service)));
    }
}
