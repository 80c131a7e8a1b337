//! The gateway: what it lets in, what it sends again, and what a caller notices when an instance dies.

// What stands in for a service, and dies when told.
mod backend;

mod routes;

mod again;

mod killed;
