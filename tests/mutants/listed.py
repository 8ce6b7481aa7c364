"""The ways in which the agent is broken on purpose, and the tests that have to notice.

Each is one edit of the source that a careless change could make as well. ``find`` occurs once in its file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One way to break the agent."""

    name: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]
    """Those that are run: one of them has to fail."""


OTHER_NODES = "tests/component/test_other_nodes.py"
FORMER_PLUGIN = "tests/component/test_former_plugin.py"
RECLAIM = "tests/component/test_reclaim.py"
HANDING_ON = "tests/component/test_handing_on.py"
PRESTART = "tests/component/test_prestart.py"
ALLOCATE = "tests/component/test_allocate.py"
KUBELET = "tests/component/test_kubelet_comes_and_goes.py"
SLOW = "tests/component/test_slow_driver.py"
HUNG = "tests/component/test_hung_drivers.py"
CHOICE = "tests/component/test_choice.py"
ADOPTED = "tests/component/test_adopted.py"
VFIO = "tests/unit/test_vfio.py"
ENDPOINT = "tests/unit/test_endpoint.py"
AGREEMENT = "tests/unit/test_agreement.py"
ORDER = "tests/unit/test_order.py"
REFUSING = "tests/component/test_refusing_cards.py"
REFUSALS = "tests/unit/test_refusals.py"
MAKING = "tests/unit/test_making.py"
CAPACITY = "tests/unit/test_capacity.py"
OFFER = "tests/unit/test_offer.py"
PLACEMENT = "tests/unit/test_placement.py"
POOLS = "tests/unit/test_pools.py"
REMOVE = "tests/unit/test_devices_remove.py"

MUTANTS = (
    # --- a device in use must never be removed ---
    Mutant(
        "the command removes what a pod has",
        "deviceplugin/cli/remove.py",
        "        await self._check_pods(uuid)\n",
        "",
        (REMOVE,),
    ),
    Mutant(
        "the command takes a kubelet without a checkpoint at its word",
        "deviceplugin/cli/remove.py",
        '    if memory is None:\n        raise KubeletError(f"the kubelet has no checkpoint {kubelet.checkpoint}")\n',
        "    memory = memory or checkpoint.NOTHING\n",
        (REMOVE,),
    ),
    Mutant(
        "the command removes what bears another node's name",
        "deviceplugin/cli/remove.py",
        "        if owner is Owner.OTHER_NODE and not self._other_nodes:\n",
        "        if owner is Owner.OTHER_NODE and not self._node_name:\n",
        (REMOVE,),
    ),
    Mutant(
        "a confined agent may still make and remove files anywhere",
        "deviceplugin/host/landlock.py",
        "handled = _WRITE_FILE | _REMOVE | _MAKE\n",
        "handled = _WRITE_FILE\n",
        ("tests/component/test_landlock.py",),
    ),
    Mutant(
        "what was read of a slow card is thrown away",
        "deviceplugin/host/reading.py",
        "            self._on_late(seen)\n",
        "            pass\n",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "a slow card is read again while it is still being read",
        "deviceplugin/host/reading.py",
        "            self._late[card].again.update(addresses)\n            return None\n",
        "            self._late[card].again.update(addresses)\n",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "a device that is finished while its count is read is counted twice",
        "deviceplugin/host/mdev.py",
        "            if seen == before and None not in seen:\n                break\n",
        "            seen = before\n            if None not in seen:\n                break\n",
        ("tests/unit/test_mdev_scan.py",),
    ),
    Mutant(
        "any device passes for a VFIO group",
        "deviceplugin/host/kernel.py",
        "if not stat.S_ISCHR(found.st_mode) or number != expected:",
        "if not stat.S_ISCHR(found.st_mode):",
        ("tests/unit/test_vfio.py",),
    ),
    Mutant(
        "after a failure of the events nobody looks at what they did not tell",
        "deviceplugin/host/listening.py",
        "                pause = FIRST_PAUSE\n            self._on_missed()\n",
        "                pause = FIRST_PAUSE\n",
        ("tests/unit/test_listening.py",),
    ),
    Mutant(
        "what leaves a function while the next one is read is counted twice",
        "deviceplugin/host/mdev.py",
        '    parents = [reader.without_what_left(parent, f"{root}/{parent.address}") for parent in parents]\n',
        "",
        ("tests/unit/test_mdev_scan.py",),
    ),
    Mutant(
        "each look at a slow card leads to another one",
        "deviceplugin/host/node.py",
        "on_again=self._look_once_more,",
        "on_again=self.look_again,",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "a card that was slow once is never waited for again",
        "deviceplugin/host/reading.py",
        "            return None\n        self._slow.pop(card, None)\n",
        "            return None\n",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "a watch on the kubelet's directory that fails ends the agent",
        "deviceplugin/kubelet/registration.py",
        "        except Exception as error:",
        "        except KeyError as error:",
        ("tests/unit/test_registration.py",),
    ),
    Mutant(
        "without events the node is looked at as seldom as with them",
        "deviceplugin/host/node.py",
        "if not listening.hears or clock() - swept >= SWEEP:",
        "if clock() - swept >= SWEEP:",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "removes without a claim",
        "deviceplugin/host/vfio.py",
        "        with claim(kernel, uuid):\n            if not still_wanted():",
        "        if True:\n            if not still_wanted():",
        (VFIO,),
    ),
    Mutant(
        "takes a busy group for a free one",
        "deviceplugin/host/vfio.py",
        "        if error.errno == errno.EBUSY:\n            raise DeviceBusy(",
        "        if error.errno == errno.EBUSY:\n            raise DeviceGone(",
        (VFIO,),
    ),
    Mutant(
        "does not look whether the opened group is still the device's",
        "deviceplugin/host/vfio.py",
        "if now is None or now.group != device.group:",
        "if now is None:",
        (VFIO,),
    ),
    Mutant(
        "claims a device that has only a character device",
        "deviceplugin/host/vfio.py",
        'if os.path.lexists(kernel.paths.device(uuid) / "vfio-dev"):',
        "if False:",
        (VFIO,),
    ),
    Mutant(
        "removes what does not bear the mark",
        "deviceplugin/inventory/slots.py",
        "            return Owner.FOREIGN\n",
        "            return Owner.OURS\n",
        ("tests/unit/test_reclaim.py", f"{RECLAIM}::test_foreign_devices_stay_for_ever"),
    ),
    Mutant(
        "removes what another node's agent made",
        "deviceplugin/inventory/slots.py",
        "        return Owner.OURS if slot.node == self.bits else Owner.OTHER_NODE\n",
        "        return Owner.OURS\n",
        ("tests/unit/test_reclaim.py", OTHER_NODES),
    ),
    Mutant(
        "hands a device of another node's name to a new pod",
        "deviceplugin/allocation.py",
        "        if owner is Owner.OTHER_NODE:\n",
        "        if False:\n",
        (OTHER_NODES,),
    ),
    Mutant(
        "lists only UUIDs of what the kubelet remembers of another plugin",
        "deviceplugin/inventory/offer.py",
        "    new_others = {text for text in held if not mark.is_ours(text)} - before_others\n",
        "    new_others = {text for text in held if slots.is_uuid(text) and not mark.is_ours(text)}\n",
        (FORMER_PLUGIN,),
    ),
    Mutant(
        "lists another plugin's device without its NUMA node",
        "deviceplugin/inventory/offer.py",
        "        numa_nodes = sorted(held.get(uuid) or own)\n",
        "        numa_nodes: list[int] = []\n",
        (FORMER_PLUGIN,),
    ),
    Mutant(
        "does not read again what the kubelet remembers when another plugin was there",
        "deviceplugin/kubelet/server.py",
        "            await self._recall()\n",
        "",
        (FORMER_PLUGIN,),
    ),
    Mutant(
        "offers an adopted device that nobody has seen free",
        "deviceplugin/advertising.py",
        "            if uuid not in free and self.held.get(uuid) != resource.name\n",
        "            if False\n",
        (ADOPTED,),
    ),
    Mutant(
        "looks at an adopted device that a pod has",
        "deviceplugin/adoption.py",
        "set(self._adopted()).difference(held)\n",
        "set(self._adopted())\n",
        (ADOPTED,),
    ),
    Mutant(
        "makes a device for a container that the kubelet's records don't name",
        "deviceplugin/allocation.py",
        "            await self._remembered(uuid)  # Whom the kubelet's records don't name, nothing is made for.\n",
        "",
        (f"{PRESTART}::test_nothing_is_made_for_whom_the_kubelet_does_not_name",),
    ),
    Mutant(
        "removes an adopted device once it is free",
        "deviceplugin/reclaim.py",
        "await (self._remove if self._mark.is_ours(uuid) else self._look_whether_free)(uuid, begun)",
        "await self._remove(uuid, begun)",
        (ADOPTED,),
    ),
    # --- nor one that a pod has ---
    Mutant(
        "asks the pod resources once instead of twice",
        "deviceplugin/reclaim.py",
        "                unnamed = await self._unnamed(unnamed)\n",
        "                pass\n",
        ("tests/unit/test_reclaim.py",),
    ),
    Mutant(
        "does not ask the pod resources at all",
        "deviceplugin/reclaim.py",
        "        return candidates - named\n",
        "        return candidates\n",
        ("tests/unit/test_reclaim.py", RECLAIM),
    ),
    Mutant(
        "ignores what the checkpoint names",
        "deviceplugin/reclaim.py",
        "for uuid in sorted(unnamed - remembered):",
        "for uuid in sorted(unnamed):",
        (f"{RECLAIM}::test_an_init_containers_device_is_kept_since_the_checkpoint_names_it",),
    ),
    Mutant(
        "believes a stale checkpoint",
        "deviceplugin/kubelet/memory.py",
        "        await self._rewrite()\n        found = await asyncio.to_thread(checkpoint.read, "
        "self._paths.checkpoint)\n        if found is None:",
        "        found = await asyncio.to_thread(checkpoint.read, self._paths.checkpoint)\n"
        "        if found is None:",
        (f"{RECLAIM}::test_a_stale_checkpoint_keeps_nothing",),
    ),
    Mutant(
        "takes a damaged checkpoint for an empty one",
        "deviceplugin/kubelet/memory.py",
        "        await self._rewrite()\n        found = await asyncio.to_thread(checkpoint.read, "
        "self._paths.checkpoint)\n        if found is None:\n"
        '            raise KubeletError(f"the kubelet\'s checkpoint {self._paths.checkpoint} vanished")\n',
        "        await self._rewrite()\n        try:\n"
        "            found = await asyncio.to_thread(checkpoint.read, self._paths.checkpoint)\n"
        "        except KubeletError:\n            found = None\n        if found is None:\n            return {}\n",
        (f"{RECLAIM}::test_a_checkpoint_that_can_not_be_had_keeps_everything",),
    ),
    Mutant(
        "takes a list that can't be had for an empty one",
        "deviceplugin/reclaim.py",
        "        named = (await self._pods.holders()).keys()\n",
        "        try:\n            named = (await self._pods.holders()).keys()\n"
        "        except KubeletError:\n            named = set()\n",
        (f"{RECLAIM}::test_a_list_that_can_not_be_had_keeps_everything", "tests/unit/test_reclaim.py"),
    ),
    Mutant(
        "removes though it is switched off",
        "deviceplugin/agent.py",
        "            if self._config.reclaim.enabled:\n                self._start",
        "            if True:\n                self._start",
        (f"{RECLAIM}::test_switched_off_it_removes_nothing",),
    ),
    Mutant(
        "ignores the grace",
        "deviceplugin/reclaim.py",
        "if self._ledger.idle_for(uuid) >= self._settings.grace}",
        "if self._ledger.idle_for(uuid) >= 0}",
        ("tests/unit/test_reclaim.py", RECLAIM),
    ),
    Mutant(
        "does not wait for the kubelet to be calm",
        "deviceplugin/reclaim.py",
        "away = {uuid for uuid in idle if self._calm_for(uuid) < self._settings.grace}",
        "away: set[str] = set()",
        ("tests/unit/test_reclaim.py", RECLAIM),
    ),
    Mutant(
        "removes on a proof that is no longer one",
        "deviceplugin/reclaim.py",
        "return self._ledger.idle_for(uuid) >= since and self._calm_for(uuid) >= since",
        "return True",
        ("tests/unit/test_reclaim.py", f"{HUNG}::test_a_proof_that_took_too_long_is_none"),
    ),
    # --- nobody gets somebody else's device ---
    Mutant(
        "hands a used device on as it is",
        "deviceplugin/allocation.py",
        "        if fits and self._ledger.is_fresh(uuid):\n",
        "        if fits:\n",
        (f"{HANDING_ON}::test_a_used_device_is_made_anew_for_the_next_pod",),
    ),
    Mutant(
        "counts a failed request's device as unused",
        "deviceplugin/transaction.py",
        "        self._ledger.used(made)\n        for uuid, lock",
        "        for uuid, lock",
        (f"{HANDING_ON}::test_what_can_not_be_undone_since_something_holds_it_goes_to_nobody",),
    ),
    Mutant(
        "does not count a started container's device as used",
        "deviceplugin/ledger.py",
        "        self._fresh.difference_update(uuids)\n",
        "        pass\n",
        (HANDING_ON, PRESTART),
    ),
    Mutant(
        "counts a device found at start as unused",
        "deviceplugin/ledger.py",
        "        return uuid in self._fresh\n",
        "        return uuid in self._fresh or uuid not in self._touched\n",
        (f"{HANDING_ON}::test_a_device_found_at_start_counts_as_used",),
    ),
    Mutant(
        "forgets that containers start unseen while the stream is down",
        "deviceplugin/connections.py",
        "        if not up:\n",
        "        if False:\n",
        (f"{HANDING_ON}::test_a_device_that_lived_through_a_lost_stream_counts_as_used",),
    ),
    Mutant(
        "makes devices again for pods that the kubelet has failed",
        "deviceplugin/recovery.py",
        "for resource, uuid in missing if uuid in listing.holders)",
        "for resource, uuid in missing)",
        (f"{PRESTART}::test_what_a_pod_had_that_a_reboot_ended_is_not_made_again",),
    ),
    Mutant(
        "believes a kubelet's list before it names the agent's own pod",
        "deviceplugin/recovery.py",
        "        if self._pod not in listing.pods:\n",
        "        if False:\n",
        (f"{PRESTART}::test_until_the_kubelet_names_the_agent_s_pod_all_that_it_remembers_is_made_again",),
    ),
    Mutant(
        "counts a device that was made again at a start as unused",
        "deviceplugin/allocation.py",
        '            self._ledger.used([uuid])\n            log.info("device made again before',
        '            log.info("device made again before',
        (f"{PRESTART}::test_a_device_that_is_made_again_at_a_start_is_used_from_then_on",),
    ),
    Mutant(
        "counts a device that was made again after a reboot as unused",
        "deviceplugin/allocation.py",
        '            self._ledger.used([uuid])\n            log.info("device made again that',
        '            log.info("device made again that',
        (f"{PRESTART}::test_what_was_made_again_is_renewed_for_another_pod",),
    ),
    Mutant(
        "makes a device again that somebody else made",
        "deviceplugin/recovery.py",
        "if resource and uuid not in present and self._mark.is_ours(uuid)",
        "if resource and uuid not in present",
        (f"{ADOPTED}::test_an_adopted_device_that_a_reboot_took_is_left_to_whoever_made_it",),
    ),
    Mutant(
        "makes a device anew under a VM that still has it",
        "deviceplugin/making.py",
        "            await self._node.remove_unused(uuid)\n        except DeviceBusy as error:\n",
        "            pass\n        except DeviceBusy as error:\n",
        (f"{HANDING_ON}::test_a_used_device_is_not_handed_on_while_the_old_vm_has_it",),
    ),
    Mutant(
        "takes a checkpoint that says nothing of a device for one that says the right thing",
        "deviceplugin/kubelet/memory.py",
        "        if found is None or uuid not in found.holdings:\n            raise KubeletError(",
        "        if found is None or uuid not in found.holdings:\n            return ()\n"
        "            raise KubeletError(",
        (PRESTART,),
    ),
    Mutant(
        "starts a container with another device's node",
        "deviceplugin/allocation.py",
        "        if all(right & nodes for nodes in containers):\n            return\n",
        "        return\n",
        (f"{PRESTART}::test_a_device_whose_group_changed_meanwhile_fails_the_start_clearly",),
    ),
    Mutant(
        "hands out an adopted device that is in use",
        "deviceplugin/allocation.py",
        "        if held:\n            self._on_occupied(uuid)\n",
        "        if False:\n            self._on_occupied(uuid)\n",
        (ADOPTED,),
    ),
    Mutant(
        "serves devices that it never offered",
        "deviceplugin/allocation.py",
        "            if not self._offered(resource.name, text):\n",
        "            if False:\n",
        ("tests/component/test_bad_input.py", PRESTART),
    ),
    # --- nothing leaks ---
    Mutant(
        "leaves the first of two when the second can't be made",
        "deviceplugin/transaction.py",
        "                await self._undo(uuid)\n",
        "                pass\n",
        (f"{ALLOCATE}::test_an_attribute_that_is_refused_fails_the_pod_and_leaves_nothing",),
    ),
    Mutant(
        "leaves a device that comes after its request was given up",
        "deviceplugin/making.py",
        "                await self.undo([uuid])\n",
        "                pass\n",
        (f"{SLOW}::test_a_create_that_hangs_is_answered_in_time_and_cleaned_up_when_it_comes",),
    ),
    Mutant(
        "keeps a device whose attribute was refused",
        "deviceplugin/making.py",
        "                made.append(uuid)\n                await self._finish(order.resource, device, seat)\n",
        "                await self._finish(order.resource, device, seat)\n                made.append(uuid)\n",
        (f"{ALLOCATE}::test_an_attribute_that_is_refused_fails_the_pod_and_leaves_nothing",),
    ),
    Mutant(
        "keeps devices of another configuration for ever",
        "deviceplugin/kubelet/memory.py",
        "            return max((self.calm_for(each) for each in self._lines), default=0.0)\n",
        "            return 0.0\n",
        (f"{RECLAIM}::test_devices_of_another_configuration_and_another_name_are_taken_back",),
    ),
    Mutant(
        "lets devices vanish that the kubelet remembers after a reboot",
        "deviceplugin/recovery.py",
        "        for resource, uuid in await self._awaited():\n            try:\n",
        "        for resource, uuid in ():\n            try:\n",
        (PRESTART,),
    ),
    # --- the list ---
    Mutant(
        "lets slots vanish from the list",
        "deviceplugin/inventory/offer.py",
        "    every = healthy | existing | remembered | before\n",
        "    every = healthy | existing | remembered\n",
        (OFFER,),
    ),
    Mutant(
        "lists nothing that only the checkpoint names",
        "deviceplugin/inventory/offer.py",
        "    every = healthy | existing | remembered | before\n",
        "    every = healthy | existing | before\n",
        (OFFER,),
    ),
    Mutant(
        "turns a device that exists Unhealthy when there is no more room",
        "deviceplugin/inventory/offer.py",
        "    healthy, lost = existing - _slots(mark, stuck), _slots(mark, pulled) - existing\n",
        "    healthy, lost = set[SlotId](), _slots(mark, pulled) - existing\n",
        (OFFER,),
    ),
    Mutant(
        "offers a pulled device's slot again at once",
        "deviceplugin/ledger.py",
        "                self._pulled.add(uuid)\n",
        "                pass\n",
        ("tests/unit/test_ledger.py", "tests/component/test_seen_from_outside.py"),
    ),
    Mutant(
        "ignores a quota on the node",
        "deviceplugin/inventory/resources.py",
        "        return DEFAULT_CAP if self.max is None else self.max\n",
        "        return DEFAULT_CAP\n",
        (OFFER,),
    ),
    Mutant(
        "ignores a quota on a card",
        "deviceplugin/making.py",
        "        if resource.max_per_card is None:\n",
        "        if True:\n",
        (f"{CHOICE}::test_a_quota_per_card_leaves_the_rest_of_each_card_to_others",),
    ),
    Mutant(
        "adds up what virtual functions claim",
        "deviceplugin/inventory/capacity.py",
        "        if not card.divided:\n            return stated\n",
        "        return stated\n",
        (CAPACITY,),
    ),
    Mutant(
        "offers what a second type would have without the first",
        "deviceplugin/inventory/capacity.py",
        "            return min(stated, proved)\n",
        "            return stated\n",
        ("tests/properties/test_offered.py",),
    ),
    # --- where devices go ---
    Mutant(
        "does not look again before it refuses",
        "deviceplugin/making.py",
        "            # What was known may be older than the room that somebody just gave back.\n"
        "            await self._node.rescan()\n",
        "",
        (MAKING,),
    ),
    Mutant(
        "offers what a card refused a moment ago",
        "deviceplugin/inventory/capacity.py",
        "        return room if limit is None else min(room, limit)\n",
        "        return room\n",
        (REFUSALS,),
    ),
    Mutant(
        "never tries a card again that refused",
        "deviceplugin/inventory/refusals.py",
        "return 0 if now < self.again else 1 <<",
        "return 0 if True else 1 <<",
        (REFUSALS,),
    ),
    Mutant(
        "tries all functions of a dead card before another one",
        "deviceplugin/inventory/order.py",
        " if number >= SEVERAL}",
        " if number >= 99}",
        (ORDER,),
    ),
    Mutant(
        "takes its own undoing for a card that moved",
        "deviceplugin/inventory/refusals.py",
        "            if now < each.quiet:\n",
        "            if False:\n",
        (REFUSALS,),
    ),
    Mutant(
        "removes a late device that was handed over in between",
        "deviceplugin/making.py",
        "            if not self._ledger.is_handed_over(uuid):\n                await self.undo",
        "            if True:\n                await self.undo",
        (MAKING,),
    ),
    Mutant(
        "gives up at the first card that refuses",
        "deviceplugin/making.py",
        "                        return\n                    break\n",
        "                        return\n                    return\n",
        (f"{REFUSING}::test_a_dead_card_of_eight_costs_no_pod",),
    ),
    Mutant(
        "a function is tried for the next device until a look shows the first",
        "deviceplugin/host/node.py",
        "(parent.address != parent.card or self._reader.is_slow(parent.card))",
        "self._reader.is_slow(parent.card)",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "what was counted beforehand passes for a look",
        "deviceplugin/host/node.py",
        " and not self._is_ahead(look):\n",
        ":\n",
        ("tests/unit/test_node.py",),
    ),
    Mutant(
        "a function that somebody was quicker to use counts as refusing",
        "deviceplugin/inventory/refusals.py",
        "                if left:\n                    changed[place] = replace(each, known=card.parents, parents=left)\n",
        "                if left:\n                    changed[place] = replace(each, known=card.parents)\n",
        (REFUSALS,),
    ),
    Mutant(
        "what others made counts for the quota of a card",
        "deviceplugin/allocation.py",
        "            belongs=lambda name, uuid: mark.is_ours(uuid) and offered(name, uuid),\n",
        "            belongs=offered,\n",
        (ADOPTED,),
    ),
    Mutant(
        "what the kubelet remembers is tried no longer than a new request",
        "deviceplugin/making.py",
        "if not keep and self._clock()",
        "if self._clock()",
        (MAKING,),
    ),
    Mutant(
        "a request is tried on until its deadline",
        "deviceplugin/making.py",
        "                        order.ended = True\n                        return\n",
        "                        order.ended = True\n",
        (MAKING,),
    ),
    Mutant(
        "does not try another way after a refusal",
        "deviceplugin/making.py",
        "        if order.left and devices and not order.ended:\n",
        "        if False:\n",
        (CHOICE,),
    ),
    Mutant(
        "mixes types where one has room for all",
        "deviceplugin/inventory/placement.py",
        "        for type_id in single:\n            yield (type_id,), aligned\n        if mixed:\n"
        "            yield choices, aligned\n",
        "        yield choices, aligned\n",
        (PLACEMENT,),
    ),
    Mutant(
        "forgets NUMA nodes",
        "deviceplugin/inventory/placement.py",
        "                near = card.numa_node == left[0]\n",
        "                near = True\n",
        (PLACEMENT,),
    ),
    Mutant(
        "takes what it learned for what the kernel said",
        "deviceplugin/inventory/pools.py",
        "        return None if worked_out is None else min(stated, worked_out)\n",
        "        return worked_out\n",
        (POOLS,),
    ),
    Mutant(
        "sends pods to a card whose driver hangs",
        "deviceplugin/inventory/capacity.py",
        "            if card.address not in self._hung and any(",
        "            if any(",
        (f"{SLOW}::test_a_create_that_hangs_is_answered_in_time_and_cleaned_up_when_it_comes",),
    ),
    # --- who is served ---
    Mutant(
        "ends before gRPC has done with its calls",
        "deviceplugin/cli/run.py",
        "        await asyncio.wait(left, timeout=LAST_MOMENT)\n",
        "        pass\n",
        ("tests/unit/test_run.py",),
    ),
    Mutant(
        "leaves requests unanswered when it ends",
        "deviceplugin/kubelet/service.py",
        "            limit.reschedule(0)\n",
        "            pass\n",
        ("tests/component/test_stop.py::test_a_create_that_hangs_does_not_keep_it",),
    ),
    Mutant(
        "takes a stranger for the kubelet",
        "deviceplugin/kubelet/service.py",
        "        if self.expecting:\n",
        "        if True:\n",
        (ENDPOINT,),
    ),
    Mutant(
        "takes the first stranger's end for the kubelet's",
        "deviceplugin/kubelet/service.py",
        "            if self._listeners:\n",
        "            if False:\n",
        (ENDPOINT,),
    ),
    Mutant(
        "does not doubt when one of several listeners ends",
        "deviceplugin/kubelet/service.py",
        "                self._on_doubt()\n",
        "                pass\n",
        (ENDPOINT,),
    ),
    Mutant(
        "takes one look for proof that another plugin has the resource",
        "deviceplugin/kubelet/agreement.py",
        "            elif now - state.suspected[2] >= CONFIRM:\n",
        "            else:\n",
        (AGREEMENT,),
    ),
    Mutant(
        "covers with a list of its own what another plugin left",
        "deviceplugin/kubelet/agreement.py",
        "        if suspected is not None and suspected[0] == line.socket and "
        "suspected[1] != line.listing.revision:\n",
        "        if False:\n",
        (AGREEMENT,),
    ),
    Mutant(
        "fights another plugin at full speed",
        "deviceplugin/kubelet/agreement.py",
        "        state.pause = min(2 * state.pause, LAST_PAUSE)\n",
        "        pass\n",
        (AGREEMENT,),
    ),
    Mutant(
        "trusts a kubelet that believes another plugin",
        "deviceplugin/kubelet/memory.py",
        "not line.connected or resource in self._disputed:",
        "not line.connected:",
        ("tests/unit/test_kubelet_memory.py",),
    ),
    Mutant(
        "does not register with a new kubelet while the old one listens",
        "deviceplugin/kubelet/server.py",
        "        if connection.registered:\n            connection.renew.set()",
        "        pass",
        (ENDPOINT,),
    ),
    Mutant(
        "asks without a pause for a kubelet that is not there",
        "deviceplugin/kubelet/server.py",
        "self._pause = FIRST_RETRY if hopeful else min(2 * self._pause, LAST_RETRY)",
        "self._pause = 0.0",
        (ENDPOINT,),
    ),
    Mutant(
        "does not register again when the kubelet ends the stream",
        "deviceplugin/kubelet/server.py",
        "                # Ended by us or by the kubelet, which never asks for the list again by itself.\n"
        "                connection.renew.set()\n",
        "                pass\n",
        (KUBELET,),
    ),
    Mutant(
        "writes attributes outside the device's directory",
        "deviceplugin/host/mdev.py",
        '        if not path.startswith(f"{directory}/"):\n',
        "        if False:\n",
        ("tests/unit/test_mdev_scan.py", ALLOCATE),
    ),
    Mutant(
        "parses requests of any length",
        "deviceplugin/telemetry/http.py",
        "        if self._left < 0:\n",
        "        if False:\n",
        ("tests/unit/test_http.py",),
    ),
    Mutant(
        "tidies no specification after one that stays",
        "deviceplugin/specs.py",
        '                    self._say_once(uuid, "a CDI specification stays for now: %s", error)\n',
        "                    raise\n",
        ("tests/unit/test_specs.py",),
    ),
    Mutant(
        "offers resources whose variables are the same",
        "deviceplugin/inventory/variables.py",
        "        if other != resource and (same := own & every(other)):\n",
        "        if False and (same := own & every(other)):\n",
        ("tests/unit/test_config.py", "tests/unit/test_advertising.py"),
    ),
    Mutant(
        "keeps any number of devices of a checkpoint in memory",
        "deviceplugin/kubelet/checkpoint.py",
        "            if len(found) + sum(map(len, groups.values())) > _MAX_DEVICES:\n",
        "            if False:\n",
        ("tests/unit/test_checkpoint.py",),
    ),
    Mutant(
        "waits for a kubelet's directory without a word",
        "deviceplugin/kubelet/registration.py",
        "        if is_missing is not (is_missing := not paths.plugins.is_dir()) and is_missing:\n",
        "        if False:\n",
        ("tests/unit/test_registration.py",),
    ),
)
