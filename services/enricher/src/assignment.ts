/** Which enricher has which node. */

/**
 * The member that has the node, by rendezvous hashing: all members come to the same answer without talking, and when one dies only its own nodes move.
 * @param members not empty
 */
export function ownerOf(nodeToken: string, members: readonly string[]): string {
  let owner = '';
  let most = -1;
  for (const member of members) {
    const weight = mixed(`${member}/${nodeToken}`);
    if (weight > most || (weight === most && member < owner)) {
      most = weight;
      owner = member;
    }
  }
  return owner;
}

/** FNV-1a, finished as in MurmurHash3 so that a change in the last letter reaches every bit. */
function mixed(text: string): number {
  let hash = 0x811c9dc5 | 0;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
