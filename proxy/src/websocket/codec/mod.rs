//! Dialects: what an event is as a request to a function, and what the function's answer wants done.
//!
//! Owns the choice among them. Pure: events and answers in, requests and actions out.

