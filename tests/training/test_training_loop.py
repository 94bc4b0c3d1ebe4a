import itertools
import json
import math
import multiprocessing
import os
import resource
import signal
import socket
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from limnet.training.loop import Draws, FitOptions, drawn_batches, fit, local_device

# a process that is forked from one that has imported these starts at once
SERVER = multiprocessing.get_context("forkserver")
# optimizers load torch._dynamo
SERVER.set_forkserver_preload(["limnet.training.loop", "pytest", "torch._dynamo"])


def toy():
    """A network with all that could go astray at a restart: dropout and running statistics."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def toy_step(network, batch, rng):
    return (network(batch) - batch.sum(dim=1, keepdim=True) + rng.normal()).square().mean()


def toy_batch(rng, size=6):
    return torch.from_numpy(rng.random((size, 3), dtype=np.float32))


TOY = FitOptions(iterations=20, warm_up=5, checkpoint_seconds=0.0, seed=3)
RARELY = 1e9  # seconds between checkpoints


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that the tests start: sums over two threads round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy_run(folder, options=TOY, **more):
    network = toy()
    return network, fit(network, toy_step, toy_batch, folder, options, **more)


def killed_at(iteration):
    def progress(done, loss):
        if done == iteration:
            raise KeyboardInterrupt

    return progress


def run_until(iteration, folder, options=TOY, **more):
    with pytest.raises(KeyboardInterrupt):
        toy_run(folder, options, progress=killed_at(iteration), **more)


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(found, expected):
    """Bit for bit, for networks and their states."""
    found, expected = (x.state_dict() if isinstance(x, nn.Module) else x for x in (found, expected))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kills", [[1], [2, 9, 19]])
def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one(kills, tmp_path):
    expected, whole = toy_run(tmp_path / "whole")
    for iteration in kills:
        run_until(iteration, tmp_path / "parts")
    seen = []
    network, parts = toy_run(tmp_path / "parts", progress=lambda done, loss: seen.append(done))
    assert seen == list(range(kills[-1], 20)) and parts.losses == whole.losses
    assert_same(network, expected)


def slow_run(folder):
    torch.set_num_threads(1)
    toy_run(folder, replace(TOY, iterations=300))


def iterations_on_disk(folder):
    log = folder / "log.json"
    return len(json.loads(log.read_text())["losses"]) if log.exists() else 0


def test_a_process_killed_at_any_moment_and_started_again_reaches_the_same_weights(tmp_path):
    options = replace(TOY, iterations=300, checkpoint_seconds=RARELY)
    expected, whole = toy_run(tmp_path / "whole", options)
    folder = tmp_path / "killed"
    for reached in (3, 20):  # it saves at each iteration and so dies while it writes, mostly
        process = SERVER.Process(target=slow_run, args=(folder,))
        process.start()
        while process.is_alive() and iterations_on_disk(folder) < reached:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert reached <= iterations_on_disk(folder) < 300
    network, killed = toy_run(folder, options)
    assert killed.losses == whole.losses
    assert_same(network, expected)


def test_a_checkpoint_is_replaced_and_what_a_kill_left_of_one_is_removed(tmp_path):
    def progress(done, loss):
        if done == 7:
            os.link(tmp_path / "checkpoint.pt", tmp_path / "before.pt")

    (tmp_path / ".0-checkpoint.pt").write_bytes(b"half of it")
    toy_run(tmp_path, progress=progress)
    assert len(torch.load(tmp_path / "before.pt", weights_only=True)["losses"]) == 7
    assert len(checkpoint(tmp_path)["losses"]) == 20
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint.pt", "log.json", "before.pt"}


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.999, None])
def test_a_damaged_or_foreign_checkpoint_is_named_and_not_overwritten(kept, tmp_path):
    path = tmp_path / "checkpoint.pt"
    if kept is None:
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        toy_run(tmp_path)
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.pt"):
        toy_run(tmp_path)
    assert path.read_bytes() == damaged


def run_on_a_small_disk(folder, answer):
    """Files may not grow beyond 5000 bytes from iteration 6 on."""

    def progress(done, loss):
        if done == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

    torch.set_num_threads(1)
    with pytest.raises(RuntimeError) as error:
        toy_run(folder, progress=progress)
    answer.send(str(error.value))


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(tmp_path):
    folder = tmp_path / "parts"
    receiver, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=run_on_a_small_disk, args=(folder, sender))
    process.start()
    sender.close()  # or recv would wait for ever for a process that died
    message = receiver.recv()
    process.join()
    assert (
        "of 7 iterations" in message and f"{folder / 'checkpoint.pt'}, which has done 6" in message
    )
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt", "log.json"}
    assert len(checkpoint(folder)["losses"]) == iterations_on_disk(folder) == 6
    assert_same(toy_run(folder)[0], toy_run(tmp_path / "whole")[0])


class Diverges(torch.autograd.Function):
    """A finite loss with a gradient that is not."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


@pytest.mark.parametrize("diverges", [lambda loss: loss * torch.nan, Diverges.apply])
def test_a_run_that_diverges_stops_and_saves_the_state_before(diverges, tmp_path):
    def step(network, batch, rng):
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        loss = toy_step(network, batch, rng)
        return diverges(loss) if len(states) == 6 else loss

    states = []
    with pytest.raises(RuntimeError, match="of iteration 5"):
        fit(toy(), step, toy_batch, tmp_path, replace(TOY, checkpoint_seconds=RARELY))
    state = checkpoint(tmp_path)
    assert len(state["losses"]) == 5
    assert_same(state["network"], states[-1])  # batch norm's statistics too
    assert all(tensor.isfinite().all() for tensor in state["average"].values())


def test_a_finished_run_is_not_run_again_and_other_options_begin_no_second_one(tmp_path):
    first, whole = toy_run(tmp_path)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    for options in (TOY, replace(TOY, checkpoint_seconds=9.0, validate_every=2)):
        second, again = toy_run(tmp_path, options)
        assert again == whole and not second.training
        assert_same(second, first)
    with pytest.raises(ValueError, match=r"seed \(3, now 4\)"):
        toy_run(tmp_path, replace(TOY, seed=4))
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path):
    options = replace(TOY, freeze_bn_fraction=0.5, ema_decay=0.9)
    expected, _ = toy_run(tmp_path / "whole", options)
    run_until(7, tmp_path, options)
    state = checkpoint(tmp_path)
    state = {name: state[name] for name in ("network", "optimizer", "average", "losses", "options")}
    earlier = {"frozen_share": 0.5, "average_decay": 0.9}
    gone = ("freeze_bn_fraction", "ema_decay", "bfloat16", "validate_every")
    kept = {name: value for name, value in state["options"].items() if name not in gone}
    torch.save(state | {"options": kept | earlier}, tmp_path / "checkpoint.pt")
    assert_same(toy_run(tmp_path, options)[0], expected)


def test_the_log_tells_losses_scores_seconds_and_options(tmp_path):
    options = replace(TOY, validate_every=10)
    scores = iter([0.5, math.nan])
    _, fitted = toy_run(tmp_path, options, validate=lambda network: next(scores))
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["losses"] == fitted.losses and len(fitted.losses) == 20
    assert log["scores"] == [[10, 0.5], [20, None]]
    assert log["seconds"] == round(fitted.seconds, 3) > 0
    assert log["options"] == asdict(options) and log["processes"] == 1


def test_validation_sees_the_average_and_changes_nothing(tmp_path):
    def validate(network):
        assert not network.training and not torch.is_grad_enabled()
        averages.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network(torch.rand(4, 3)).mean().item()  # and torch's random state is another

    averages, options = [], replace(TOY, validate_every=5)
    _, without = toy_run(tmp_path / "without", options)
    run_until(12, tmp_path / "with", options, validate=validate)
    before = checkpoint(tmp_path / "with")["seconds"]
    network, fitted = toy_run(tmp_path / "with", options, validate=validate)
    assert fitted.seconds > before > 0
    assert fitted.losses == without.losses and without.scores == []
    for part in ("network", "average"):
        assert_same(checkpoint(tmp_path / "with")[part], checkpoint(tmp_path / "without")[part])
    assert [done for done, _ in fitted.scores] == [5, 10, 15, 20]
    assert_same(averages[-1], network)  # which is the average at the end


def test_the_callers_random_state_is_left_alone_also_by_a_run_that_stops(tmp_path):
    network = toy()
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fit(network, toy_step, toy_batch, tmp_path, TOY, killed_at(3))
    assert torch.equal(torch.get_rng_state(), before)
    fit(network, toy_step, toy_batch, tmp_path, TOY)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_network_is_left_with_the_average_of_its_weights(tmp_path):
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    options = FitOptions(iterations=3, learning_rate=1.0, warm_up=1, weight_decay=0.0)
    weights = []
    fit(
        network,
        lambda network, batch, rng: -network.weight.sum(),
        lambda rng: None,
        tmp_path,
        options,
        lambda done, loss: weights.append(network.weight.item()),
    )
    average = 0.0
    for iteration, weight in enumerate(weights):
        decay = (1 + iteration) / (10 + iteration)
        average = decay * average + (1 - decay) * weight
    assert network.weight.item() == pytest.approx(average)


def test_batch_norm_freezes_and_the_learning_rate_warms_up_and_falls_to_one_percent(tmp_path):
    network, modes = toy(), []
    options = replace(TOY, iterations=100, warm_up=10, learning_rate=1.0, freeze_bn_fraction=0.3)
    rates = []

    def progress(done, loss):
        modes.append(network.training)
        if done:  # the checkpoint of the iteration before
            rates.append(checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"])

    fit(network, toy_step, toy_batch, tmp_path, options, progress)
    assert modes == [True] * 70 + [False] * 30
    assert rates[0] < 0.11 and rates[9] > 0.95 and rates[98] == pytest.approx(0.01, abs=0.002)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_in_bfloat16_the_step_computes_in_it_and_the_weights_stay_float32(tmp_path):
    def step(network, batch, rng):
        with torch.no_grad():
            network(batch)  # as in click_step: must not cost the weights their gradients
        answer = network(batch)
        seen.add((batch.dtype, answer.dtype))
        return (answer.float() - batch.sum(dim=1, keepdim=True)).square().mean()

    seen, network = set(), plain(seed=0)
    options = FitOptions(iterations=40, warm_up=1, learning_rate=0.03, bfloat16=True)
    losses = fit(network, step, toy_batch, tmp_path, options).losses
    assert seen == {(torch.float32, torch.bfloat16)}
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
    assert all(weight.grad is not None for weight in network.parameters())
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def both_kinds(rng):
    """From the generator that is given, and from PyTorch's own."""
    return float(rng.random()), float(torch.rand(1))


def test_who_draws_changes_nothing_but_seed_iteration_and_rank_do(tmp_path):
    def drawn(workers, seed=3, rank=0, iterations=range(2, 7)):
        batches = drawn_batches(Draws(both_kinds, seed, rank), iterations, workers)
        return [(seed, batch, rng.random()) for seed, batch, rng in batches]

    alone = drawn(0)
    assert drawn(2) == alone and drawn(0, iterations=range(4, 7)) == alone[2:]
    others = [drawn(0, seed, rank) for seed in (3, 4) for rank in (0, 1)]
    assert len({batch for draws in others for _, batch, _ in draws}) == 4 * 5


def test_a_process_has_the_gpu_of_its_number_or_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device() == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device() == torch.device("cuda:3")


def member(rank, port, job, folder):
    """One of two processes, as torchrun would start it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.save(job(rank, folder), folder / f"answer-{rank}.pt")


def together(job, folder):
    """What `job(rank, folder)` returns in each of two processes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    members = [SERVER.Process(target=member, args=(rank, port, job, folder)) for rank in (0, 1)]
    for process in members:
        process.start()
    for process in members:
        process.join(timeout=60)
    assert [process.exitcode for process in members] == [0, 0]
    return [torch.load(folder / f"answer-{rank}.pt", weights_only=True) for rank in (0, 1)]


def plain(seed):
    """A network without statistics, for which the mean of two batches is that of both."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def regression_step(network, batch, rng):
    return (network(batch) - batch.sum(dim=1, keepdim=True)).square().mean()


JOINT = FitOptions(iterations=15, warm_up=1, learning_rate=0.03, seed=3)


def half_of_a_batch(rank, folder):
    network = plain(seed=rank)  # rank 1 has other weights, which rank 0's replace
    fitted = fit(
        network, regression_step, lambda rng: toy_batch(rng, 8), folder / f"rank-{rank}", JOINT
    )
    return network.state_dict() | {"losses": torch.tensor(fitted.losses)}


def test_two_processes_learn_what_one_learns_from_both_their_batches(tmp_path):
    def both_parts(rng):
        generators = [np.random.default_rng((3, next(iteration) // 2, rank)) for rank in (0, 1)]
        for generator in generators:
            generator.integers(2**62)  # the seed of dropout, drawn first
        return torch.cat([toy_batch(generator, 8) for generator in generators])

    first, second = together(half_of_a_batch, tmp_path)
    assert_same(second, first)
    assert not (tmp_path / "rank-1").exists()  # rank 0 alone writes
    network, iteration = plain(seed=0), itertools.count()
    losses = fit(network, regression_step, both_parts, tmp_path / "alone", JOINT).losses
    torch.testing.assert_close(first, network.state_dict() | {"losses": torch.tensor(losses)})
    assert losses[-1] < losses[0]


def first_weights_and_gradients(rank, folder):
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    network.to(memory_format=torch.channels_last)
    nn.init.constant_(network[1].running_mean, rank + 5.0)
    fit(network, regression_step, toy_batch, folder / f"rank-{rank}", FitOptions(iterations=0))
    uneven = nn.ParameterDict({name: torch.zeros(1) for name in ("both", "one", "none")})

    def step(network, batch, rng):
        loss = uneven["both"].sum() * (rank + 1)
        return loss + uneven["one"].sum() if rank == 1 else loss

    options = FitOptions(iterations=1, gradient_norm=RARELY)
    fit(uneven, step, lambda rng: None, folder / "uneven", options)
    return network.state_dict(), {name: weight.grad for name, weight in uneven.items()}


def test_processes_share_weights_statistics_and_gradients_that_one_of_them_left_out(tmp_path):
    (first, gradients), (second, others) = together(first_weights_and_gradients, tmp_path)
    assert_same(second, first)
    assert (first["1.running_mean"] == 5.0).all()
    assert gradients == others == {"both": 1.5, "one": 0.5, "none": None}


def toy_of_two(rank, folder):
    return toy_run(folder)[0].state_dict()


def toy_of_two_stopped(rank, folder):
    with pytest.raises((KeyboardInterrupt, RuntimeError)):  # rank 1: the other one has gone
        toy_run(folder, progress=killed_at(7))
    return len(checkpoint(folder)["losses"])


def test_two_processes_that_were_stopped_end_as_uninterrupted_ones(tmp_path):
    expected, second = together(toy_of_two, tmp_path / "whole")
    assert_same(second, expected)  # batch norm's statistics too, though their batches differ
    assert together(toy_of_two_stopped, tmp_path / "parts") == [7, 7]
    for state in together(toy_of_two, tmp_path / "parts"):
        assert_same(state, expected)


def diverging_on_one(rank, folder):
    def step(network, batch, rng):
        loss = toy_step(network, batch, rng)
        steps.append(loss)
        return loss * torch.nan if rank == 1 and len(steps) == 6 else loss

    steps, options = [], replace(TOY, checkpoint_seconds=9.0)
    with pytest.raises(RuntimeError, match="of iteration 5") as diverged:
        fit(toy(), step, toy_batch, folder / f"rank-{rank}", options)
    if rank == 0:
        assert len(checkpoint(folder / "rank-0")["losses"]) == 5
        (folder / "damaged").mkdir()
        (folder / "damaged" / "checkpoint.pt").write_bytes(b"half of it")
    with pytest.raises(ValueError, match="damaged") as damaged:
        toy_run(folder / ("other" if rank else "damaged"))
    return str(diverged.value), str(damaged.value)


def test_all_processes_stop_where_one_diverges_and_tell_of_a_damaged_checkpoint(tmp_path):
    first, second = together(diverging_on_one, tmp_path)
    assert first == second
    assert str(tmp_path / "rank-0" / "checkpoint.pt") in first[0]
