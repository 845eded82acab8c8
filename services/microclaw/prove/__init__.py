"""`microclaw prove`: the whole mesh in a throw-away home, real traffic, an act of harm a round, an account at the end.

- `plan` what is done in which round, from the seed alone; `account` what became of every message: both pure;
- `trial` the rounds; `traffic` what is said and what comes back; `acts` the harm; `audit` what is looked at at the end;
- `mesh_run` one running installation, as the tests use it too; `throw_away` its home;
- `inside/` is put into the services' `PYTHONPATH`: their clock can be set (`clock`), their broker can be told
  (`orders`) to die at a chosen point, to run out of disk (`journal_faults`) or out of power (`powercut`). The services
  themselves know nothing of it.
"""
