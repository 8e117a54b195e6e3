//! Partitions in memory, with retention.

use seawall::ledger::{Identity, Plan, Replayable};
use seawall::node::MemoryPartitions;

use crate::bed::{Ledger, all, is_changed, is_lost, read, share};

fn bed() -> (MemoryPartitions, Ledger) {
    let topic = MemoryPartitions::new(Identity(7));
    let ledger = Ledger::new(topic.identity().unwrap());
    (topic, ledger)
}

fn records(topic: &MemoryPartitions, plan: &Plan) -> Vec<String> {
    plan.ranges.iter().flat_map(|range| read(topic, range).unwrap()).collect()
}

#[test]
fn each_record_is_in_one_batch() {
    let (topic, mut ledger) = bed();
    for i in 0..10 {
        assert_eq!(topic.append(i % 2, format!("{i}")), u64::from(i / 2));
    }
    let latest = topic.latest(&ledger.known()).unwrap();
    assert_eq!((latest.bytes, latest.records), (10, Some(10)));
    let mut taken = Vec::new();
    loop {
        let plan = topic.plan(&ledger.known(), share(3, 100, 9)).unwrap();
        assert_eq!(topic.plan(&ledger.known(), share(3, 100, 9)).unwrap(), plan);
        taken.extend(records(&topic, &plan));
        let has_more = plan.has_more;
        let batch = ledger.allocate(plan).unwrap();
        let ranges = ledger.ranges(batch);
        assert!(ranges.iter().map(|range| range.records).sum::<u64>() <= 3);
        ledger.commit(batch);
        if !has_more {
            break;
        }
    }
    taken.sort();
    assert_eq!(taken, (0..10).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(ledger.allocate(topic.plan(&ledger.known(), all()).unwrap()).is_none());
    assert_eq!(topic.latest(&ledger.known()).unwrap().records, Some(0));
}

#[test]
fn what_retention_takes_is_lost_and_told() {
    let (topic, mut ledger) = bed();
    for i in 0..4 {
        topic.append(0, format!("{i}"));
    }
    topic.drop_below(0, 1);
    let plan = topic.plan(&ledger.known(), share(1, 100, 1)).unwrap();
    assert_eq!((plan.ranges[0].from, plan.ranges[0].to), (1, 2), "a partition begins where it begins");
    let batch = ledger.allocate(plan).unwrap();
    topic.drop_below(0, 2);
    let told = is_lost(topic.read(&ledger.ranges(batch)[0]));
    assert!(told.contains("partition 0, 1..2"), "{told}");
    assert_eq!(records(&topic, &topic.plan(&ledger.known(), all()).unwrap()), ["2", "3"]);
    topic.drop_below(0, 3);
    is_lost(topic.plan(&ledger.known(), all()));
    is_lost(topic.latest(&ledger.known()));
}

#[test]
fn other_records_at_the_same_offsets_are_told() {
    let (topic, mut ledger) = bed();
    topic.append(3, "ab");
    topic.append(3, "c");
    let batch = ledger.allocate(topic.plan(&ledger.known(), all()).unwrap()).unwrap();
    let range = &ledger.ranges(batch)[0];
    topic.remove(3);
    is_lost(topic.read(range));
    topic.append(3, "a");
    is_changed(topic.read(range));
    // Fewer than are in batches: nobody can tell what is new.
    is_changed(topic.plan(&ledger.known(), all()));
    is_changed(topic.latest(&ledger.known()));
    topic.append(3, "bc");
    is_changed(topic.read(range));
}

#[test]
fn a_removed_partition_is_gone_when_it_is_committed() {
    let (topic, mut ledger) = bed();
    topic.append(0, "a");
    let batch = ledger.allocate(topic.plan(&ledger.known(), all()).unwrap()).unwrap();
    topic.remove(0);
    assert!(topic.plan(&ledger.known(), all()).unwrap().gone.is_empty());
    ledger.commit(batch);
    ledger.allocate(topic.plan(&ledger.known(), all()).unwrap());
    assert_eq!(ledger.parts(), 0);
}
