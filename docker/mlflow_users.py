"""MLflow's two users, made before its server starts: their passwords are what the secret files say now.

`admin` sees and may do everything: for people. `sweeper` is who sweeps log as: it has what it made itself.
Usage: mlflow_users.py DATABASE_URL
"""

import sys
from pathlib import Path

from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

USERS = {"admin": True, "sweeper": False}
"""name -> administrator"""

store = SqlAlchemyStore()
store.init_db(sys.argv[1])
for name, is_admin in USERS.items():
    password = Path(f"/run/secrets/mlflow_{name}_password").read_text().strip()
    if not store.has_user(name):
        store.create_user(name, password, is_admin=is_admin)
    elif not store.authenticate_user(name, password):
        store.update_user(name, password=password)
