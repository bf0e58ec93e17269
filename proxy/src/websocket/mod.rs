//! Event mode: this host holds the WebSocket, and what happens on it becomes plain HTTP requests to a function.
//!
//! Owns the connections whose function never sees a WebSocket: it may be at zero replicas while thousands of them are
//! open. One neutral engine; what an event looks like as a request, and an answer as actions, is a [codec](codec)'s.
//!
//! ```text
//!  GET, Upgrade ──► handshake ──(connect event, if the function asks for it)──► 101 ──► connection: a task
//!                                                                                        │
//!   frames ──► message ──► mailbox (bounded; full: the socket is not read) ──► one event in flight ──► codec ──► function
//!                                                                                        │
//!   frames ◄── outbound queue (bounded; full: a slow consumer) ◄── actions ◄── codec ◄── answer
//!                    ▲
//!                    └── hub: connections by id, groups, users ◄── management API, broadcasts of functions
//! ```
//!
//! * Events of one connection are made one behind the other, in the order in which its frames came.
//! * A connection that waits holds its socket, a few hundred bytes, and no buffer.
//! * What ends a replica does not end a connection: the next event goes to the next replica.

pub mod codec;
pub(crate) mod deflate;
pub mod event;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the engine is to come"))]
pub(crate) mod frame;
#[cfg_attr(not(test), expect(dead_code, reason = "the engine is to come"))]
pub(crate) mod handshake;
