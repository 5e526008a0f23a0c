//! The order in which a route's own targets are tried.
//!
//! Invariants: every member is in it once; a healthy one comes before one that is not, then the lower priority number; within
//! these the first is drawn by weight, and a session draws the same again while nothing changes for its target. Deliberately
//! absent: fallbacks, which come after all of these.

use sluice_wire::limits::ROUTE_TARGETS_MAX;

use super::{Situation, is_healthy};
use crate::config::Balance;
use crate::health::hash::{hash, mix};
use crate::snapshot::{Route, Snapshot, Target};

/// How one member compares: the lowest goes first.
#[derive(Clone, Copy)]
struct Rank {
    member: u8,
    unhealthy: bool,
    priority: u8,
    lot: f64,
}

/// Indices into the route's members, in order, and how many there are.
pub(super) fn order(snapshot: &Snapshot, route: &Route, situation: &Situation<'_>) -> ([u8; ROUTE_TARGETS_MAX], usize) {
    let mut ranks = [Rank {
        member: 0,
        unhealthy: true,
        priority: u8::MAX,
        lot: f64::INFINITY,
    }; ROUTE_TARGETS_MAX];
    let len = route.members.len().min(ROUTE_TARGETS_MAX);
    for (index, (rank, member)) in ranks.iter_mut().zip(&route.members).enumerate() {
        let random = match situation.session {
            // By name, so that it survives a change of the list.
            Some(session) => hash(
                session,
                snapshot.provider(member.target.provider).name.as_bytes(),
                member.target.model.as_bytes(),
            ),
            None => mix(situation.random ^ index as u64),
        };
        *rank = Rank {
            member: index as u8,
            unhealthy: !is_healthy(
                snapshot.provider(member.target.provider),
                &member.target.model,
                situation,
            ),
            priority: member.priority,
            lot: lot(random, member.weight),
        };
    }
    let ranks = &mut ranks[..len];
    ranks.sort_unstable_by(|a, b| {
        (a.unhealthy, a.priority)
            .cmp(&(b.unhealthy, b.priority))
            .then(a.lot.total_cmp(&b.lot))
            .then(a.member.cmp(&b.member))
    });
    if let [first, second, ..] = ranks
        && situation.session.is_none()
        && (first.unhealthy, first.priority) == (second.unhealthy, second.priority)
        && second.lot.is_finite()
    {
        let cost = |rank: &Rank| {
            cost(
                snapshot,
                &route.members[usize::from(rank.member)].target,
                route,
                situation,
            )
        };
        if cost(second) < cost(first) {
            std::mem::swap(first, second);
        }
    }
    let mut order = [0; ROUTE_TARGETS_MAX];
    for (place, rank) in order.iter_mut().zip(ranks.iter()) {
        *place = rank.member;
    }
    (order, len)
}

/// The time until an event of a rate as high as the weight: the first of several is each one's as often as its weight says
/// (Efraimidis and Spirakis, 2006).
pub(super) fn lot(random: u64, weight: u32) -> f64 {
    if weight == 0 {
        return f64::INFINITY;
    }
    // In (0, 1]: the 53 bits that a float holds.
    let unit = ((random >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -unit.ln() / f64::from(weight)
}

/// What a request would wait for, in the terms of the route.
fn cost(snapshot: &Snapshot, target: &Target, route: &Route, situation: &Situation<'_>) -> u64 {
    let provider = snapshot.provider(target.provider);
    let tag = situation.health.tag(&provider.name, &target.model);
    let found = situation
        .health
        .find(tag, &provider.name, &target.model, situation.now_ms);
    let Some(state) = found.map(|slot| situation.health.target(slot)) else {
        return 0;
    };
    let under_way = u64::from(state.in_flight());
    match route.balance {
        Balance::Weighted => 0,
        Balance::LeastBusy => under_way,
        Balance::Fastest => u64::from(state.latency_us(situation.streamed, situation.now_ms)) * (under_way + 1),
    }
}
