// castore, as its documentation shows. It runs in a folder with its node_modules, and speaks the protocol of
// protocol.py: commands on standard input and answers on standard output, as lines of JSON.

import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";

import { CreateTableCommand, DynamoDBClient, waitUntilTableExists } from "@aws-sdk/client-dynamodb";
import { EventStore, EventType, eventAlreadyExistsErrorCode } from "@castore/core";
import {
  DynamoDBSingleTableEventStorageAdapter,
  EVENT_TABLE_EVENT_STORE_ID_KEY,
  EVENT_TABLE_INITIAL_EVENT_INDEX_NAME,
  EVENT_TABLE_PK,
  EVENT_TABLE_SK,
  EVENT_TABLE_TIMESTAMP_KEY,
} from "@castore/event-storage-adapter-dynamodb";

const MEMO = "rent for the room above the bakery, May ";

const accounts = new EventStore({
  eventStoreId: "ACCOUNTS",
  eventTypes: [new EventType({ type: "ACCOUNT_OPENED" }), new EventType({ type: "ACCOUNT_DEPOSITED" })],
  reducer: (account, { aggregateId, version, type, payload }) => {
    switch (type) {
      case "ACCOUNT_OPENED":
        return { aggregateId, version, owner: payload.owner, balance: 0 };
      case "ACCOUNT_DEPOSITED":
        return { ...account, version, balance: account.balance + payload.amount };
      default:
        return { ...account, version };
    }
  },
});

let client;
let turn = 0;
const kept = new Map();

async function create(aggregateId) {
  const event = { aggregateId, version: 1, type: "ACCOUNT_OPENED", payload: { owner: "ann" } };
  return (await accounts.pushEvent(event)).nextAggregate;
}

// Aggregates are immutable: the account after the deposit is what a push returns where it is given the one before.
async function deposit(account, amount) {
  const { aggregateId, version } = account;
  const event = { aggregateId, version: version + 1, type: "ACCOUNT_DEPOSITED", payload: { amount, memo: MEMO } };
  return (await accounts.pushEvent(event, { prevAggregate: account })).nextAggregate;
}

async function load(aggregateId) {
  return (await accounts.getExistingAggregate(aggregateId)).aggregate;
}

const atOnce = (tasks, one) => Promise.all(Array.from({ length: tasks }, (_, number) => one(number)));

const commands = {
  async open({ where }) {
    const credentials = { accessKeyId: "local", secretAccessKey: "local" };
    client = new DynamoDBClient({ endpoint: where, region: "us-east-1", credentials });
    const tableName = `castore-${randomBytes(4).toString("hex")}`;
    const keys = (hash, range) => [
      { AttributeName: hash, KeyType: "HASH" },
      { AttributeName: range, KeyType: "RANGE" },
    ];
    await client.send(
      new CreateTableCommand({
        TableName: tableName,
        BillingMode: "PAY_PER_REQUEST",
        AttributeDefinitions: [
          { AttributeName: EVENT_TABLE_PK, AttributeType: "S" },
          { AttributeName: EVENT_TABLE_SK, AttributeType: "N" },
          { AttributeName: EVENT_TABLE_EVENT_STORE_ID_KEY, AttributeType: "S" },
          { AttributeName: EVENT_TABLE_TIMESTAMP_KEY, AttributeType: "S" },
        ],
        KeySchema: keys(EVENT_TABLE_PK, EVENT_TABLE_SK),
        GlobalSecondaryIndexes: [
          {
            IndexName: EVENT_TABLE_INITIAL_EVENT_INDEX_NAME,
            KeySchema: keys(EVENT_TABLE_EVENT_STORE_ID_KEY, EVENT_TABLE_TIMESTAMP_KEY),
            Projection: { ProjectionType: "KEYS_ONLY" },
          },
        ],
      }),
    );
    await waitUntilTableExists({ client, maxWaitTime: 30 }, { TableName: tableName });
    accounts.eventStorageAdapter = new DynamoDBSingleTableEventStorageAdapter({ tableName, dynamoDBClient: client });
    return { runs_on: `Node ${process.versions.node}` };
  },

  async close() {
    client.destroy();
  },

  async save({ streams, times }) {
    for (const stream of streams) if (!kept.has(stream)) kept.set(stream, await create(stream));
    for (let n = 0; n < times; n++) {
      const stream = streams[n % streams.length];
      kept.set(stream, await deposit(kept.get(stream), 1));
    }
  },

  async load({ streams, times }) {
    let balance = 0;
    for (let n = 0; n < times; n++) ({ balance } = await load(streams[turn++ % streams.length]));
    return { balance };
  },

  async snapshot() {
    return { missing: true }; // "not implemented in Castore yet", says its documentation
  },

  async many({ streams, accounts, workers, times }) {
    await atOnce(workers, async (worker) => {
      const held = [];
      for (let number = worker; number < accounts; number += workers) held.push(await create(`${streams}-${number}`));
      for (let n = 1; n < times; n++) {
        for (let each = 0; each < held.length; each++) held[each] = await deposit(held[each], 1);
      }
    });
  },

  async race({ stream, tasks, times }) {
    await create(stream);
    const told = { acknowledged: 0, conflicts: 0, errors: 0 };
    await atOnce(tasks, async () => {
      for (let n = 0; n < Math.floor(times / tasks); n++) {
        try {
          await deposit(await load(stream), 1);
          told.acknowledged++;
        } catch (error) {
          if (error.code === eventAlreadyExistsErrorCode) told.conflicts++;
          else if (++told.errors === 1) console.error(error);
        }
      }
    });
    return { ...told, stored: (await load(stream)).balance };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...command } = JSON.parse(line);
  const cpu = process.cpuUsage();
  const wall = performance.now();
  let answer;
  try {
    const found = (await commands[name](command)) ?? {};
    const { user, system } = process.cpuUsage(cpu);
    answer = found.missing ? found : { cpu: (user + system) / 1e6, wall: (performance.now() - wall) / 1e3, ...found };
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}`.slice(0, 200) };
    console.error(error);
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
