//! Measuring and testing instruments: the provider simulator, the load generator and the yardstick proxies.
//!
//! Nothing here is shipped. What is measured or measures is single-threaded on one pinned core, so that CPU time
//! divides by requests.

pub mod accounts;
pub mod cache;
pub mod h1;
pub mod load;
pub mod rt;
pub mod scrape;
pub mod sim;
pub mod yard;
