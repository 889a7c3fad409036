"""Requests that overlap, fail, wait, or are interrupted."""

import pytest
import torch
from torch import nn

import hybridmu
import hybridmu.task
from hybridmu.core.kernel.gradients import plain_layers
from hybridmu.planning.planner import Pools
from hybridmu.runtime.workers.shard_worker import ShardWorker
from hybridmu.store.dataset.key_lookup import Lookup
from hybridmu.store.storage.blob_names import lineage_file
from hybridmu.types import RequestState
from tests.system.test_exactness import SGD, assert_equal_to_reference, config_for, write_table


@pytest.fixture
def trained(tmp_path, database_url):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 60, string_ids=False, groups=0)
    config = config_for(tmp_path, table, shards=3, slices=3, epochs=3, batch=4, optimizer=SGD, groups=0)
    config["database_url"] = database_url
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        rows = {shard: [] for shard in range(3)}
        for row in ids:
            rows[Lookup(system.site.lake).find([("id", row)])[0][0].shard].append(row)
        yield system, config, table, rows


def served(system, request_id):
    return system.ledger.request(request_id).state in {RequestState.SERVED, RequestState.PURGED}


@pytest.mark.sampled
def test_served_waits_for_rows_that_an_earlier_request_still_has_to_remove(trained):
    system, config, table, rows = trained
    a, b = rows[0][0], rows[1][0]
    first = system.forget(ids=[a])
    both = system.forget(ids=[a, b])
    assert both["request_id"] != first["request_id"]
    assert system.ledger.shards_of([both["request_id"]]) == {both["request_id"]: {0: 1, 1: 2}}
    assert system.forget(ids=[a, b])["request_id"] == both["request_id"]
    system.forget(ids=[a, b], wait=True)
    system.run(until_idle=True)
    assert served(system, both["request_id"])
    assert_equal_to_reference(system, config, table, [a, b])


@pytest.mark.sampled
def test_a_failed_request_is_taken_up_again(trained, monkeypatch):
    system, config, table, rows = trained
    real = ShardWorker.retrain

    def broken(worker, job):
        raise hybridmu.HybridMUError("no luck")

    monkeypatch.setattr(ShardWorker, "retrain", broken)
    with pytest.raises(hybridmu.HybridMUError, match="no luck"):
        system.forget(ids=[rows[0][0]], strategy="retrain", wait=True)
    monkeypatch.setattr(ShardWorker, "retrain", real)
    again = system.forget(ids=[rows[0][0]], strategy="retrain", wait=True)
    assert again["state"] == "SERVED"
    assert_equal_to_reference(system, config, table, [rows[0][0]])


@pytest.mark.sampled
def test_one_shards_failure_does_not_fail_requests_on_others(trained, monkeypatch):
    system, _, _, rows = trained
    real = ShardWorker.retrain

    def broken(worker, job):
        if worker.shard == 1:
            raise hybridmu.HybridMUError("no luck")
        return real(worker, job)

    monkeypatch.setattr(ShardWorker, "retrain", broken)
    wide = system.forget(ids=[rows[0][0], rows[1][0]], strategy="retrain")
    narrow = system.forget(ids=[rows[0][1]], strategy="retrain")
    system.run(until_idle=True)
    assert system.ledger.request(wide["request_id"]).state == RequestState.FAILED
    assert served(system, narrow["request_id"])
    shard0 = system.registry.version().shards[0]
    assert shard0.removed_upto > 0
    assert system.registry.version().shards[1].removed_upto == 0


@pytest.mark.sampled
def test_an_exact_repair_can_be_asked_for(trained):
    system, config, table, rows = trained
    chosen = rows[0][:3]
    system.forget(ids=chosen, strategy="dpus", wait=True)
    assert not system.registry.version().shards[0].exact
    same = system.forget(ids=chosen, wait=True)
    version = system.registry.version().version
    assert same["version_after"] == version == 2
    repaired = system.forget(ids=chosen, strategy="retrain", wait=True)
    assert repaired["request_id"] != same["request_id"]
    assert_equal_to_reference(system, config, table, chosen)
    assert system.forget(ids=chosen, strategy="retrain", wait=True)["request_id"] == same["request_id"]


@pytest.mark.sampled
def test_rows_revoked_while_a_job_waits_are_not_trained_on(trained, tmp_path):
    _, config, table, rows = trained
    config = {**config, "storage_url": str(tmp_path / "second"), "database_url": None}
    with hybridmu.connect(config, executor="local") as system:
        driver = system.session.coordination.acquire()
        driver.begin_training()
        system.forget(ids=[rows[2][0]])  # before any shard was handed over
        while system.registry.served() is None:
            driver.step(0.0)
        assert system.registry.version().shards[2].removed_upto > 0
        assert_equal_to_reference(system, config, table, [rows[2][0]])


@pytest.mark.sampled
def test_a_wide_request_is_not_starved_by_narrow_ones(trained):
    system, _, _, rows = trained
    coordinator = system.session.coordination.acquire()
    coordinator.executor.poll = lambda *_: []  # nothing finishes: only claiming is looked at
    system.forget(ids=[rows[0][0]])
    coordinator.step(0.0)
    wide = system.forget(ids=[rows[0][1], rows[1][0]])
    late = system.forget(ids=[rows[1][1]])
    coordinator.step(0.0)
    assert system.ledger.request(wide["request_id"]).state == RequestState.RECEIVED
    assert system.ledger.request(late["request_id"]).state == RequestState.RECEIVED


@pytest.mark.sampled
def test_a_job_whose_node_is_busy_holds_up_no_job_of_a_free_node(trained):
    system, config, table, rows = trained
    coordinator = system.session.coordination.acquire()
    executor, submit, poll = coordinator.executor, coordinator.executor.submit, coordinator.executor.poll
    node = {0: "one", 1: "one", 2: "two", -1: "two"}
    running = []
    executor.pools = lambda: Pools(2, 1)
    executor.has_core = lambda job: node[job.shard] not in {node[other] for other in running}
    executor.submit = lambda job: (running.append(job.shard), submit(job))
    executor.poll = lambda *_: []
    request = system.forget(ids=[rows[shard][0] for shard in range(3)], strategy="retrain")
    coordinator.step(0.0)
    assert sorted(running) == [0, 2]

    executor.poll = lambda *given: [running.remove(done.shard) or done for done in poll(*given)]
    system.run(until_idle=True)
    assert served(system, request["request_id"])
    assert_equal_to_reference(system, config, table, [rows[shard][0] for shard in range(3)])


@pytest.mark.sampled
def test_a_place_that_came_free_is_taken_before_the_step_ends(trained):
    system, _, _, rows = trained
    coordinator = system.session.coordination.acquire()
    submit, submitted = coordinator.executor.submit, []
    coordinator.executor.submit = lambda job: (submitted.append(job.shard), submit(job))
    system.forget(ids=[rows[0][0], rows[1][0]], strategy="retrain")
    coordinator.step(0.0)  # its one place does the one, then holds the other
    assert sorted(submitted) == [0, 1]


@pytest.mark.sampled
def test_a_request_calls_a_waiting_coordinator(trained):
    system, _, _, rows = trained
    coordinator, answers = system.session.coordination.acquire(), []

    def poll(_, called):
        answers.append(called())
        system.forget(ids=[rows[0][0]])
        answers.append(called())
        return []

    coordinator.executor.poll = poll
    coordinator.step(0.5)
    assert answers == [False, True]


@pytest.mark.sampled
def test_an_interrupted_wait_can_be_taken_up_again(trained, monkeypatch):
    system, config, table, rows = trained
    real, calls = ShardWorker.retrain, []

    def interrupted(worker, job):
        calls.append(job)
        if len(calls) == 1:
            raise KeyboardInterrupt
        if len(calls) == 2:
            raise RuntimeError("the user's own code")
        return real(worker, job)

    monkeypatch.setattr(ShardWorker, "retrain", interrupted)
    request = system.forget(ids=[rows[0][0]], strategy="retrain")
    with pytest.raises(KeyboardInterrupt):
        system.wait(request["request_id"])
    assert system.wait(request["request_id"]).state == RequestState.SERVED
    assert_equal_to_reference(system, config, table, [rows[0][0]])


@pytest.mark.sampled
def test_a_lost_early_checkpoint_costs_time_only(trained):
    system, config, table, rows = trained
    key = system.registry.version().shards[0].checkpoints[0].lineage_key
    system.site.storage.delete(lineage_file(0, key))
    late = [r for r in rows[0] if Lookup(system.site.lake).find([("id", r)])[0][0].slice == 3][:2]
    system.forget(ids=late[:1], strategy="retrain", wait=True)
    assert [record.slice for record in system.registry.version().shards[0].checkpoints] == [2, 3]
    plan = system.plan(ids=late[1:], strategy="retrain")
    assert plan.shards[0].first_slice == 3
    system.forget(ids=[*late[1:], rows[0][0]], strategy="retrain", wait=True)
    assert_equal_to_reference(system, config, table, [*late, rows[0][0]])


@pytest.mark.sampled
def test_a_coordinator_with_another_configuration_is_refused(trained):
    system, config, _, rows = trained
    system.forget(ids=[rows[0][0]])
    other = {**config, "optimizer": {**SGD, "lr": 0.5}}
    with (
        hybridmu.connect(other, executor="local") as stranger,
        pytest.raises(hybridmu.HybridMUError, match="another configuration"),
    ):
        stranger.run(until_idle=True)


@pytest.mark.sampled
def test_a_plan_after_a_change_of_threads_counts_what_will_really_be_trained(trained):
    system, config, _, rows = trained
    late = next(r for r in rows[0] if Lookup(system.site.lake).find([("id", r)])[0][0].slice == 3)
    assert system.plan(ids=[late], strategy="retrain").shards[0].first_slice == 3
    with hybridmu.connect({**config, "cluster": {"cpus_per_shard": 2}}, executor="local") as wider:
        assert wider.plan(ids=[late], strategy="retrain").shards[0].first_slice == 1


@pytest.mark.parametrize("shards", [[99], [], [0, 99]])
@pytest.mark.sampled
def test_verifying_nothing_is_refused(trained, shards):
    with pytest.raises(hybridmu.HybridMUError, match="nothing to verify"):
        trained[0].verify(shards)


def test_an_update_that_does_not_fit_the_optimizer_is_refused_before_it_is_committed(tmp_path):
    table = tmp_path / "train.parquet"
    ids = write_table(table, 20, string_ids=False, groups=0)
    adamw = {"name": "adamw", "lr": 0.01}
    config = config_for(tmp_path, table, shards=2, slices=2, epochs=2, batch=4, optimizer=adamw, groups=0)
    with hybridmu.connect(config, executor="local") as system:
        system.train()
        with pytest.raises(hybridmu.HybridMUError, match="is not available"):
            system.forget(ids=[ids[0]], strategy="dpus-newton")
        assert system.ledger.requests() == []


def test_shared_or_hooked_layers_go_through_autograd():
    shared = nn.Linear(4, 4)
    assert plain_layers(nn.Sequential(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2)))) is not None
    hooked = nn.Sequential(nn.Sequential(nn.Linear(4, 2)))
    hooked[0][0].register_forward_hook(lambda *_: None)
    assert plain_layers(hooked) is None

    class Tied(hybridmu.task.Mlp):
        def model(self, features, classes):
            act = nn.ReLU()
            return nn.Sequential(shared, act, shared, act, nn.Linear(4, classes))

    from hybridmu.core.kernel.gradients import gradients_of
    from hybridmu.core.kernel.model import initial_model

    task = Tied()
    model = initial_model(task, features=4, classes=2, standardize=False, seed=0, shard=0)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    parameters = list(model.parameters())
    expected = torch.autograd.grad(task.loss(model(x), y), parameters)
    found = gradients_of(model, task, parameters)(x, y)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
