"""What the agent can do: `schemas` says it once for every dialect, `toolbox` carries it out."""
