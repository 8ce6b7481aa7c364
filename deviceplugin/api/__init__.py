"""The kubelet's interfaces, generated from ``proto`` by ``make proto``."""
