#!/bin/sh
# Makes the cluster's secrets that are missing, and leaves the others alone: random, 48 characters, in the folder
# secrets/ or VAE_SWEEP_SECRETS. Only its owner can enter the folder. The files themselves can be read by all, because
# the containers' users are others than ours.
set -eu
folder=${VAE_SWEEP_SECRETS:-secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

place() { # NAME MODE: what comes in, under a temporary name first
  if [ -d "$folder/$1" ]; then rmdir "$folder/$1"; fi # docker makes a folder of a file that it misses
  cat >"$folder/.new"
  chmod "$2" "$folder/.new"
  mv "$folder/.new" "$folder/$1"
}

made=0
for name in ray_token postgres_password ledger_db_password optuna_db_password mlflow_db_password \
  mlflow_admin_password mlflow_sweeper_password mlflow_session_key; do
  if [ ! -f "$folder/$name" ]; then
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' | place "$name" 444
    made=$((made + 1))
  fi
done
# For artifacts in S3: an AWS credentials file. Empty where none are needed.
[ -f "$folder/aws_credentials" ] || place aws_credentials 644 </dev/null
[ "$made" = 0 ] || echo "$made secrets made in $folder/"
