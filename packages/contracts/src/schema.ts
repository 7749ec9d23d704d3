/** The protobuf schema (proto/tidegate/v1/events.proto) as types and codecs. */
import './protobuf-numbers.ts';
import { tidegate } from '#generated/events.js';

/** Field numbers, for what reads or writes the wire format itself. */
export {
  DETAIL_BASE,
  EventBatchField as BatchField,
  AcceptField,
  CloseField,
  ConnectField,
  ContainerField,
  DestinationField,
  EventField,
  FIRST_TABLE_FIELD,
  LAST_TABLE_FIELD,
  PodField,
  ProcessField,
} from '#generated/numbers.js';

const v1 = tidegate.v1;

export const EventBatch = v1.EventBatch;
export type EventBatch = tidegate.v1.EventBatch;
export const Event = v1.Event;
export type Event = tidegate.v1.Event.$Properties;
export const Process = v1.Process;
export type Process = tidegate.v1.Process.$Properties;
export type Container = tidegate.v1.Container.$Properties;
export const Pod = v1.Pod;
export type Pod = tidegate.v1.Pod.$Properties;
export const Destination = v1.Destination;
export type Destination = tidegate.v1.Destination.$Properties;
export const Loss = v1.Loss;
export type Loss = tidegate.v1.Loss.$Properties;
export const Kind = v1.Kind;
export type Kind = tidegate.v1.Kind;
export const LossReason = v1.LossReason;
export type LossReason = tidegate.v1.LossReason;
export const ProcessOrigin = v1.ProcessOrigin;
export type ProcessOrigin = tidegate.v1.ProcessOrigin;
export type ContainerCommand = tidegate.v1.ContainerCommand.$Properties;
export const ContainerCommandType = v1.ContainerCommandType;
export type ContainerCommandType = tidegate.v1.ContainerCommandType;
export const ContainerType = v1.ContainerType;
export type ContainerType = tidegate.v1.ContainerType;

/** A batch to encode; every field may be left out. */
export type EventBatchInput = tidegate.v1.EventBatch.$Properties;

/** @throws {Error} when the bytes are not an EventBatch. */
export function decodeBatch(payload: Uint8Array): EventBatch {
  return EventBatch.decode(payload);
}

export function encodeBatch(batch: EventBatchInput): Uint8Array {
  return EventBatch.encode(batch).finish();
}
