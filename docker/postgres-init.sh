#!/bin/sh
# On the first start of PostgreSQL: three databases, each with its own role, who may not see the others.
# psql reads the passwords itself, so that they are in no argument.
set -eu
for name in ledger optuna mlflow; do
  psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -v name="$name" --username postgres --dbname postgres <<SQL
\set password \`cat /run/secrets/${name}_db_password\`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
