/** Keys of the key-value buckets. */
import { subjectToken } from './subjects.ts';

export function podKey(node: string, podUid: string): string {
  return `${subjectToken(node)}.${subjectToken(podUid)}`;
}

/** Address as one token: dots become '-', IPv6 is given in its canonical text with ':' as '-'. */
export function addressKey(ip: string): string {
  return ip.toLowerCase().replaceAll(/[.:]/g, '-');
}

export function nodeKey(node: string): string {
  return subjectToken(node);
}

export function gatewayKey(identity: string): string {
  return subjectToken(identity);
}

/** What keys of KV `nodes` begin with that are of nodes which have left; a subject token follows. No token holds a dot. */
export const LEFT_PREFIX = 'left.';

export function leftNodeKey(node: string): string {
  return LEFT_PREFIX + nodeKey(node);
}

/** What the keys of KV `enrichers` begin with; a subject token follows. */
export const MEMBER_PREFIX = 'member.';
export const CURSOR_PREFIX = 'cursor.';

export function enricherMemberKey(enricher: string): string {
  return `${MEMBER_PREFIX}${subjectToken(enricher)}`;
}

export function enricherCursorKey(node: string): string {
  return `${CURSOR_PREFIX}${subjectToken(node)}`;
}

/** What keys of KV `positions` begin with that are the connectors'; a connector's name follows. */
export const CONNECTOR_POSITION_PREFIX = 'connectors.';
