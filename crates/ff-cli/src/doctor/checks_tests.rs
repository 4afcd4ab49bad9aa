use std::collections::BTreeMap;

use ff_core::{Partition, PartitionCount, Scope};
use ff_script::{host::ServerVersion, operations::LogPolicy};

use super::{super::finding::Level, *};

fn map(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn capacity(scope: Scope) -> LogTotals {
    let policy = LogPolicy::default();
    LogTotals {
        capacity: policy.entries(scope),
        capacity_bytes: policy.bytes(scope),
        most_memory: policy.most_memory(scope),
        ..LogTotals::default()
    }
}

/// A server as one would wish it.
fn good() -> ServerFacts {
    ServerFacts {
        named: None,
        version: Ok(ServerVersion { name: "valkey".into(), version: (9, 1, 2) }),
        clock_ahead_ms: Ok(-40),
        library: Ok(LibraryState::Same),
        replication: Ok(map(&[("role", "master"), ("connected_slaves", "1")])),
        cluster: Ok(map(&[("cluster_enabled", "0")])),
        persistence: Ok(map(&[("aof_enabled", "1"), ("aof_last_write_status", "ok")])),
        memory: Ok(map(&[("maxmemory", "0"), ("maxmemory_policy", "noeviction")])),
        settings: ServerSettings {
            append_fsync: Ok(Some("always".into())),
            save: Ok(Some(String::new())),
            output_buffers: Ok(Some("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60".into())),
            required_replicas: Ok(Some("0".into())),
            load_truncated: Ok(Some("yes".into())),
        },
        permissions: Ok(lacking([&[]; 4])),
        partitions: Ok(Some(PartitionCount::DEFAULT)),
        wanted_partitions: None,
        logs: Ok(Logs {
            flows: LogTotals { entries: 10, bytes: 3_000, logs: 2, ..capacity(Scope::Flows) },
            solo: capacity(Scope::Solo),
            unreadable: Vec::new(),
        }),
        engines: Ok(vec!["engine-1".into()]),
    }
}

/// The findings that are not ok, after a change to a good server.
fn trouble(change: impl FnOnce(&mut ServerFacts)) -> Vec<Finding> {
    let mut facts = good();
    change(&mut facts);
    all(&facts).into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

fn one(change: impl FnOnce(&mut ServerFacts)) -> (Level, String) {
    let found = trouble(change);
    assert_eq!(found.len(), 1, "{found:?}");
    (found[0].level, found[0].to_text())
}

#[test]
fn a_well_configured_server_passes_every_check() {
    assert_eq!(trouble(|_| {}), []);
}

#[test]
fn the_running_engines_are_listed() {
    let says = |count: usize| {
        let engines = (0..count).map(|number| format!("engine-{number}")).collect();
        let facts = ServerFacts { engines: Ok(engines), ..good() };
        all(&facts).into_iter().find(|finding| finding.topic == "engines").unwrap().to_text()
    };
    assert!(says(2).contains("2 running: engine-0, engine-1"), "{}", says(2));
    assert!(says(0).contains("none running"), "{}", says(0));
    assert!(says(12).contains("engine-9, …"), "{}", says(12));
}

#[test]
fn a_server_that_is_too_old_and_a_replica_are_bad() {
    let old = |facts: &mut ServerFacts| facts.version = Ok(ServerVersion { name: "redis".into(), version: (6, 2, 7) });
    assert!(matches!(one(old), (Level::Bad, text) if text.contains("redis 6.2.7") && text.contains("Valkey 7.2")));
    let replica = |facts: &mut ServerFacts| {
        facts.replication = Ok(map(&[("role", "slave"), ("master_host", "db1"), ("master_port", "6379")]));
    };
    assert!(matches!(one(replica), (Level::Bad, text) if text.contains("db1:6379")));
}

#[test]
fn the_losses_that_a_crash_can_cause_are_reported() {
    let fsync = |how: &'static str| move |facts: &mut ServerFacts| facts.settings.append_fsync = Ok(Some(how.into()));
    assert!(matches!(one(fsync("everysec")), (Level::Warn, text) if text.contains("every second")));
    assert!(matches!(one(fsync("no")), (Level::Warn, _)));
    let without_aof = |save: &'static str| {
        move |facts: &mut ServerFacts| {
            facts.persistence = Ok(map(&[("aof_enabled", "0")]));
            facts.settings.save = Ok(Some(save.into()));
        }
    };
    assert!(matches!(one(without_aof("3600 1")), (Level::Warn, text) if text.contains("3600 1")));
    assert!(matches!(one(without_aof("")), (Level::Bad, text) if text.contains("loses all flows")));
}

#[test]
fn eviction_is_bad_with_a_limit_and_a_warning_without() {
    let policy = |limit: &'static str, policy: &'static str| {
        move |facts: &mut ServerFacts| facts.memory = Ok(map(&[("maxmemory", limit), ("maxmemory_policy", policy)]))
    };
    let roomy = "1000000000000";
    assert!(matches!(one(policy(roomy, "allkeys-lru")), (Level::Bad, text) if text.contains("allkeys-lru")));
    assert_eq!(one(policy(roomy, "volatile-ttl")).0, Level::Warn);
    assert_eq!(one(policy("0", "allkeys-lru")).0, Level::Warn);
}

#[test]
fn memory_over_the_limit_is_bad_and_near_it_a_warning() {
    let used = |policy: &'static str, used: &'static str| {
        move |facts: &mut ServerFacts| {
            let memory = [("maxmemory", "1000000000000"), ("maxmemory_policy", policy), ("used_memory", used)];
            facts.memory = Ok(map(&memory));
        }
    };
    // Nothing of FlowFabric can be evicted by a policy for volatile keys either.
    for policy in ["noeviction", "volatile-lru"] {
        assert!(matches!(one(used(policy, "1000000000001")), (Level::Bad, text) if text.contains("are refused")));
        assert_eq!(one(used(policy, "950000000000")).0, Level::Warn);
    }
    assert_eq!(trouble(used("noeviction", "500000000000")), []);
}

#[test]
fn a_primary_with_too_few_replicas_to_write_is_bad() {
    let required = |required: &'static str, good: &'static str| {
        move |facts: &mut ServerFacts| {
            facts.settings.required_replicas = Ok(Some(required.into()));
            facts.replication = Ok(map(&[("role", "master"), ("min_slaves_good_slaves", good)]));
        }
    };
    assert!(matches!(one(required("2", "1")), (Level::Bad, text) if text.contains("NOREPLICAS")));
    assert_eq!(trouble(required("2", "2")), []);
}

#[test]
fn a_failed_snapshot_is_bad_if_the_server_takes_snapshots() {
    let failed = |save: &'static str| {
        move |facts: &mut ServerFacts| {
            facts.settings.save = Ok(Some(save.into()));
            facts.persistence = Ok(map(&[("aof_enabled", "1"), ("rdb_last_bgsave_status", "err")]));
        }
    };
    assert!(matches!(one(failed("3600 1")), (Level::Bad, text) if text.contains("the last snapshot failed")));
    assert_eq!(trouble(failed("")), []);
}

#[test]
fn another_partition_count_than_the_recorded_one_is_bad() {
    let wanted = |count| move |facts: &mut ServerFacts| facts.wanted_partitions = PartitionCount::new(count).ok();
    assert!(matches!(one(wanted(7)), (Level::Bad, text) if text.contains("--partitions 256")));
    assert_eq!(trouble(wanted(256)), []);
}

#[test]
fn a_cluster_that_is_down_is_an_error_even_if_other_checks_fail() {
    let found =
        trouble(|facts| facts.partitions = Err("reading: the data is busy: CLUSTERDOWN Hash slot not served".into()));
    assert!(found.iter().any(|f| f.topic == "cluster" && f.level == Level::Bad), "{found:?}");
}

#[test]
fn versions_that_truncate_a_torn_file_within_a_transaction_are_reported_if_there_is_a_file() {
    let server = |name: &str, version| {
        let name = name.to_owned();
        move |facts: &mut ServerFacts| facts.version = Ok(ServerVersion { name, version })
    };
    for (name, version) in [("valkey", (8, 0, 9)), ("redis", (7, 0, 15))] {
        assert!(matches!(one(server(name, version)), (Level::Warn, text) if text.contains("aof-load-truncated no")));
    }
    assert_eq!(trouble(server("valkey", (9, 1, 0))), []);
    let found = trouble(|facts| {
        server("valkey", (8, 0, 1))(facts);
        facts.persistence = Ok(map(&[("aof_enabled", "0")]));
    });
    assert!(found.iter().all(|f| f.topic != "torn file"), "{found:?}");
    let fixed = |facts: &mut ServerFacts| {
        server("valkey", (8, 0, 1))(facts);
        facts.settings.load_truncated = Ok(Some("no".into()));
    };
    assert_eq!(trouble(fixed), []);
}

#[test]
fn small_and_unlimited_output_buffers_are_reported() {
    let limits =
        |limits: &'static str| move |facts: &mut ServerFacts| facts.settings.output_buffers = Ok(Some(limits.into()));
    assert!(matches!(one(limits("normal 0 0 0 pubsub 1048576 0 0")), (Level::Warn, text) if text.contains("1.0 MiB")));
    assert!(matches!(one(limits("pubsub 0 0 0")), (Level::Warn, text) if text.contains("unlimited")));
    assert!(matches!(one(limits("normal 0 0 0")), (Level::Warn, text) if text.contains("no limit for pubsub")));
}

fn lacking(missing: [&[&str]; 4]) -> Permissions {
    let rules = |rules: &[&str]| rules.iter().map(ToString::to_string).collect();
    let missing = Role::ALL.into_iter().zip(missing.map(rules)).collect();
    Permissions { user: "ann".into(), missing, excessive: Vec::new() }
}

#[test]
fn a_user_with_one_role_passes_and_sees_what_the_other_roles_need() {
    let facts = ServerFacts { permissions: Ok(lacking([&[], &["+del"], &["+unlink"], &["+acl|dryrun"]])), ..good() };
    let found = all(&facts);
    assert!(found.iter().all(|finding| finding.level == Level::Ok), "{found:?}");
    let says: Vec<&str> = found.iter().filter(|f| f.topic == "permissions").map(|f| f.says.as_str()).collect();
    assert!(
        says[0].contains("all that the role subscriber needs")
            && says[2].contains("cannot act as worker: missing +unlink")
    );
}

#[test]
fn a_clock_that_differs_from_this_machines_is_reported() {
    let ahead = |facts: &mut ServerFacts| facts.clock_ahead_ms = Ok(3_600_000);
    assert!(matches!(one(ahead), (Level::Warn, text) if text.contains("3600.0 s ahead of")));
    let behind = |facts: &mut ServerFacts| facts.clock_ahead_ms = Ok(-5_000);
    assert!(matches!(one(behind), (Level::Warn, text) if text.contains("5.0 s behind")));
}

#[test]
fn a_user_without_a_role_sees_the_rules_of_each_role() {
    let found = trouble(|facts| facts.permissions = Ok(lacking([&["&ff:*"], &["+del"], &["+unlink"], &["+hset"]])));
    assert!(found.len() == 4 && found.iter().all(|finding| finding.level == Level::Bad), "{found:?}");
    assert!(found[0].to_text().contains("ACL SETUSER ann &ff:*"), "{found:?}");
}

#[test]
fn permissions_that_no_role_needs_are_listed() {
    let rich = |facts: &mut ServerFacts| {
        facts.permissions = Ok(Permissions { excessive: vec!["FLUSHALL", "CONFIG SET"], ..lacking([&[]; 4]) });
    };
    assert!(matches!(one(rich), (Level::Warn, text) if text.contains("FLUSHALL, CONFIG SET")));
}

#[test]
fn a_check_without_data_is_reported_as_unknown() {
    let found = trouble(|facts| {
        let refused = || "CONFIG GET is not permitted".to_owned();
        facts.settings.append_fsync = Err(refused());
        facts.settings.output_buffers = Err(refused());
        facts.permissions = Err("ACL WHOAMI is not permitted".to_owned());
    });
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|finding| finding.level == Level::Warn && finding.says.contains("not permitted")));
}

#[test]
fn logs_that_are_short_or_may_exceed_the_memory_are_reported() {
    let busy = |facts: &mut ServerFacts| {
        if let Ok(logs) = &mut facts.logs {
            (logs.flows.rate, logs.flows.busiest_rate) = (500.0, 100.0);
        }
    };
    assert!(matches!(one(busy), (Level::Warn, text) if text.contains("1m40s") && text.contains("500.0/s")));
    let small = |facts: &mut ServerFacts| {
        facts.memory = Ok(map(&[("maxmemory", "100000000"), ("maxmemory_policy", "noeviction")]));
    };
    assert!(matches!(one(small), (Level::Warn, text) if text.contains("95.4 MiB")));
}

#[test]
fn the_maximum_size_of_all_logs_is_compared_with_the_memory_limit() {
    let most =
        256 * [Scope::Flows, Scope::Solo].map(|scope| LogPolicy::default().most_memory(scope)).iter().sum::<u64>();
    let limited = |limit: u64| {
        move |facts: &mut ServerFacts| {
            let limit = limit.to_string();
            facts.memory = Ok(map(&[("maxmemory", &limit), ("maxmemory_policy", "noeviction")]));
        }
    };
    assert_eq!(trouble(limited(most)), []);
    let (level, text) = one(limited(most - 1));
    assert!(level == Level::Warn && text.contains(&crate::text::bytes(most)), "{text}");
    assert!(text.contains("at most") && text.contains("256 partitions") && text.contains("2.9 KiB now"), "{text}");
}

#[test]
fn the_entries_of_a_full_log_are_limited_by_its_bytes() {
    let large = LogTotals { entries: 10, bytes: 10 << 20, ..capacity(Scope::Flows) };
    assert_eq!((large.kept_entries(), large.full_bytes(2)), (16, 32 << 20));
}

#[test]
fn logs_that_cannot_be_read_are_named_beside_the_figures_of_the_others() {
    let log = |number| LogId { partition: Partition::new(number), scope: Scope::Flows };
    let found = |why: &'static str| {
        trouble(move |facts| {
            if let Ok(logs) = &mut facts.logs {
                logs.unreadable = (0..7).map(|number| (log(number), why.to_owned())).collect();
            }
        })
    };
    let overwritten = found("reading: WRONGTYPE Operation against a key");
    assert!(overwritten.len() == 1 && overwritten[0].level == Level::Bad, "{overwritten:?}");
    let says = &overwritten[0].says;
    assert!(
        says.contains(&format!("7 logs cannot be read: {}, ", keys::completion_log(log(0)))) && says.contains(", … ("),
        "{says}"
    );
    let refused = found("NOPERM no permissions");
    assert!(refused.len() == 1 && refused[0].level == Level::Warn, "{refused:?}");
    assert!(refused[0].to_text().contains("grant ~ff:* +@read"), "{refused:?}");
}

#[test]
fn a_primary_that_sentinels_named_is_reported_with_its_address() {
    let found = all(&ServerFacts { named: Some("db2:6379".into()), ..good() });
    let role = found.iter().find(|finding| finding.topic == "role").unwrap();
    assert!(role.level == Level::Ok && role.says.contains("found by sentinels at db2:6379"), "{role:?}");
}
