//! Code that the tests of queues share.
#![allow(unreachable_pub)]

pub mod broken;
