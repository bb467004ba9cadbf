"""How programs are compiled where only their results are looked at."""

# Most of the tests' time is compilation, and these take three quarters of it away: no optimisation, the
# emitters of fusions that are not made by MLIR, and one module of machine code for a program.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
