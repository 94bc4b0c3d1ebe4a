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

from limnet.training import loop
from limnet.training.loop import FitOptions, fit, local_device, processes

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


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(found, expected):
    """Bit for bit, for networks and their states."""
    found, expected = (x.state_dict() if isinstance(x, nn.Module) else x for x in (found, expected))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kills", [[1], [7], [2, 9, 17], [19]])
def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one(kills, tmp_path):
    expected, whole = toy_run(tmp_path / "whole")
    for iteration in kills:
        with pytest.raises(KeyboardInterrupt):
            toy_run(tmp_path / "parts", progress=killed_at(iteration))
    network, parts = toy_run(tmp_path / "parts")
    assert parts.losses == whole.losses
    assert_same(network, expected)


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, progress=killed_at(7))
    seen = []
    toy_run(tmp_path, progress=lambda done, loss: seen.append(done))
    assert seen == list(range(7, 20))


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


def test_a_checkpoint_is_replaced_and_never_written_over(tmp_path):
    def progress(done, loss):
        if done == 7:
            os.link(tmp_path / "checkpoint.pt", tmp_path / "before.pt")

    toy_run(tmp_path, progress=progress)
    assert len(torch.load(tmp_path / "before.pt", weights_only=True)["losses"]) == 7
    assert len(checkpoint(tmp_path)["losses"]) == 20


def test_what_is_left_of_a_checkpoint_that_was_being_written_does_no_harm(tmp_path):
    expected, _ = toy_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "parts", progress=killed_at(7))
    (tmp_path / "parts" / "checkpoint.partial").write_bytes(b"half of it")
    network, _ = toy_run(tmp_path / "parts")
    assert_same(network, expected)
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"checkpoint.pt", "log.json"}


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_damaged_checkpoint_is_named_and_not_overwritten(kept, tmp_path):
    toy_run(tmp_path)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    damaged = content[: int(kept * len(content))]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"checkpoint\.pt must be a whole .*; remove it"):
        toy_run(tmp_path)
    assert path.read_bytes() == damaged


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="must be a whole checkpoint of this package"):
        toy_run(tmp_path)


def run_on_a_small_disk(folder, largest_file, answer):
    """Files may not grow beyond `largest_file` bytes from iteration 6 on."""

    def progress(done, loss):
        if done == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))

    torch.set_num_threads(1)
    with pytest.raises(RuntimeError) as error:
        toy_run(folder, progress=progress)
    answer.send(str(error.value))


@pytest.mark.parametrize("largest_file", [0, 1000, 5000, 8000])
def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(largest_file, tmp_path):
    folder = tmp_path / "parts"
    receiver, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=run_on_a_small_disk, args=(folder, largest_file, sender))
    process.start()
    sender.close()  # or recv would wait for ever for a process that died
    message = receiver.recv()
    process.join()
    assert message.startswith("checkpoint and log of 7 iterations could not be written (")
    assert message.endswith(
        f"the last good checkpoint is {folder / 'checkpoint.pt'}, which has done 6: "
        "make room on the disk and start again"
    )
    assert {path.name for path in folder.iterdir()} == {"checkpoint.pt", "log.json"}
    assert len(checkpoint(folder)["losses"]) == iterations_on_disk(folder) == 6
    assert_same(toy_run(folder)[0], toy_run(tmp_path / "whole")[0])


def test_a_disk_that_was_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    def full(state, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RuntimeError, match=r"no space left.*the last good checkpoint is none"):
        toy_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


class Diverges(torch.autograd.Function):
    """A finite loss with a gradient that is not."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


@pytest.mark.parametrize("diverges", [lambda loss: loss * torch.nan, Diverges.apply])
@pytest.mark.parametrize("seconds", [0.0, RARELY])
def test_a_run_that_diverges_stops_and_saves_the_state_before(diverges, seconds, tmp_path):
    def step(network, batch, rng):
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        loss = toy_step(network, batch, rng)
        return diverges(loss) if len(states) == 6 else loss

    states = []
    with pytest.raises(
        RuntimeError,
        match=r"of iteration 5 must be finite.*the state before it is in .*checkpoint\.pt.*"
        "lower the learning rate and train in another folder",
    ):
        fit(toy(), step, toy_batch, tmp_path, replace(TOY, checkpoint_seconds=seconds))
    state = checkpoint(tmp_path)
    assert len(state["losses"]) == 5
    assert_same(state["network"], states[-1])  # batch norm's statistics too
    assert all(tensor.isfinite().all() for tensor in state["average"].values())


def test_a_finished_run_is_not_run_again(tmp_path):
    first, whole = toy_run(tmp_path)
    content = (tmp_path / "checkpoint.pt").read_bytes()
    second, again = toy_run(tmp_path)
    assert again == whole
    assert_same(second, first)
    assert not second.training
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


def test_a_run_goes_on_with_other_weights_at_no_option_but_the_harmless(tmp_path):
    toy_run(tmp_path)
    toy_run(tmp_path, replace(TOY, checkpoint_seconds=9.0, validate_every=2))
    with pytest.raises(ValueError, match=r"seed \(3, now 4\); choose another folder"):
        toy_run(tmp_path, replace(TOY, seed=4))


def test_a_checkpoint_of_version_0_1_0_goes_on(tmp_path):
    expected, _ = toy_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, progress=killed_at(7))
    state = checkpoint(tmp_path)
    old = {"network", "optimizer", "average", "losses", "options"}
    state = {name: state[name] for name in old}
    for name in ("bfloat16", "validate_every"):
        del state["options"][name]
    torch.save(state, tmp_path / "checkpoint.pt")
    assert_same(toy_run(tmp_path)[0], expected)


def test_the_log_tells_losses_scores_seconds_and_options(tmp_path):
    options = replace(TOY, validate_every=10)
    scores = iter([0.5, math.nan])
    _, fitted = toy_run(tmp_path, options, validate=lambda network: next(scores))
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["losses"] == fitted.losses and len(fitted.losses) == 20
    assert log["scores"] == [[10, 0.5], [20, None]]
    assert log["seconds"] == round(fitted.seconds, 3) > 0
    assert log["options"] == asdict(options) and log["processes"] == 1


def test_seconds_are_summed_over_restarts(tmp_path):
    def slow(done, loss):
        time.sleep(0.02)
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path, progress=slow)
    before = checkpoint(tmp_path)["seconds"]
    assert before >= 7 * 0.02
    assert toy_run(tmp_path)[1].seconds > before


def test_validation_sees_the_average_and_changes_nothing(tmp_path):
    def validate(network):
        assert not network.training and not torch.is_grad_enabled()
        averages.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return network(torch.rand(4, 3)).mean().item()  # and torch's random state is another

    def batch(rng):
        random_states.append(torch.get_rng_state())
        return toy_batch(rng)

    averages, ends = [], []
    for name, every in (("without", 0), ("with", 5)):
        random_states, network, options = [], toy(), replace(TOY, validate_every=every)
        fitted = fit(network, toy_step, batch, tmp_path / name, options, validate=validate)
        ends.append((checkpoint(tmp_path / name), random_states, torch.get_rng_state(), fitted))
    (state, states, last, fitted), (state_with, states_with, last_with, fitted_with) = ends
    assert fitted.losses == fitted_with.losses and torch.equal(last, last_with)
    assert all(torch.equal(*pair) for pair in zip(states, states_with, strict=True))
    for part in ("network", "average"):
        assert_same(state_with[part], state[part])
    for number, moments in state["optimizer"]["state"].items():
        assert_same(state_with["optimizer"]["state"][number], moments)
    assert [done for done, _ in fitted_with.scores] == [5, 10, 15, 20] and fitted.scores == []
    assert len(averages) == 4
    assert_same(averages[-1], network)  # which is the average at the end


def test_scores_survive_a_restart(tmp_path):
    options = replace(TOY, validate_every=5)

    def validate(network):
        return network(torch.ones(1, 3)).item()

    _, whole = toy_run(tmp_path / "whole", options, validate=validate)
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "parts", options, validate=validate, progress=killed_at(12))
    _, parts = toy_run(tmp_path / "parts", options, validate=validate)
    assert parts.scores == whole.scores and len(whole.scores) == 4


def test_workers_that_draw_ahead_change_nothing(tmp_path):
    _, alone = toy_run(tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "ahead", replace(TOY, workers=2), progress=killed_at(7))
    _, ahead = toy_run(tmp_path / "ahead", replace(TOY, workers=2))
    assert ahead.losses == alone.losses


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


def test_batch_norm_keeps_its_statistics_in_the_last_part(tmp_path):
    network, modes = toy(), []
    options = FitOptions(iterations=10, freeze_bn_fraction=0.3)
    fit(
        network, toy_step, toy_batch, tmp_path, options,
        lambda done, loss: modes.append(network.training),
    )  # fmt: skip
    assert modes == [True] * 7 + [False] * 3


def test_the_learning_rate_warms_up_and_falls_to_one_percent():
    options = FitOptions(iterations=100, warm_up=10)
    rates = [loop._schedule(iteration, options) for iteration in range(101)]
    assert rates[0] < 0.11 and rates[9] > 0.95 and rates[100] == pytest.approx(0.01)
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


def test_a_process_has_the_gpu_of_its_number_or_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert local_device() == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device() == torch.device("cuda:3")


def test_a_process_that_nobody_started_with_others_is_alone(monkeypatch):
    assert processes(torch.device("cpu")) == (0, 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes(torch.device("cpu")) == (0, 1)
    assert not torch.distributed.is_initialized()


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


def first_weights(rank, folder):
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    network.to(memory_format=torch.channels_last)
    nn.init.constant_(network[1].running_mean, rank + 5.0)
    fit(network, regression_step, toy_batch, folder / f"rank-{rank}", FitOptions(iterations=0))
    return network.state_dict()


def test_all_processes_begin_with_the_weights_and_statistics_of_the_first(tmp_path):
    first, second = together(first_weights, tmp_path)
    assert_same(second, first)
    assert (first["1.running_mean"] == 5.0).all()


def uneven_step(rank, folder):
    network = nn.ParameterDict({name: torch.zeros(1) for name in ("both", "one", "none")})

    def step(network, batch, rng):
        loss = network["both"].sum() * (rank + 1)
        return loss + network["one"].sum() if rank == 1 else loss

    options = FitOptions(iterations=1, gradient_norm=RARELY)
    fit(network, step, lambda rng: None, folder, options)
    return {name: weight.grad for name, weight in network.items()}


def test_a_weight_that_one_process_left_out_has_a_gradient_of_zero_there(tmp_path):
    for gradients in together(uneven_step, tmp_path):
        assert gradients["both"] == 1.5 and gradients["one"] == 0.5 and gradients["none"] is None


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

    steps = []
    with pytest.raises(RuntimeError, match="of iteration 5 must be finite") as error:
        fit(toy(), step, toy_batch, folder / f"rank-{rank}", replace(TOY, checkpoint_seconds=9.0))
    return str(error.value)


def test_all_processes_stop_where_one_of_them_diverges(tmp_path):
    first, second = together(diverging_on_one, tmp_path)
    assert first == second and str(tmp_path / "rank-0" / "checkpoint.pt") in first
    assert len(checkpoint(tmp_path / "rank-0")["losses"]) == 5


def damaged_for_all(rank, folder):
    with pytest.raises(ValueError, match="remove it") as error:
        toy_run(folder / f"rank-{rank}")
    return str(error.value)


def test_all_processes_tell_of_a_damaged_checkpoint(tmp_path):
    (tmp_path / "rank-0").mkdir()
    (tmp_path / "rank-0" / "checkpoint.pt").write_bytes(b"half of it")
    first, second = together(damaged_for_all, tmp_path)
    assert first == second and "rank-0" in first
